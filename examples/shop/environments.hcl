# The shop in two environments on one kiln: what production gets is signed, has
# passed its checks and served in staging, and somebody has said that it may.
service "shop" {
  image {
    context       = "."
    containerfile = "Containerfile"
  }

  servers = 1
  port    = 8080

  route {
    listen = "127.0.0.1:18082"
  }

  health "http" {
    path = "/healthz"
  }

  deploy {
    keep_warm = "0s"
  }

  policy {
    setuid = false
    size   = "64MiB"
  }
}

environment "staging" {
}

environment "production" {
  policy {
    require {
      signed    = ["kiln-1"]
      checks    = ["policy/setuid", "policy/size"]
      approvers = 1
      served {
        environment = "staging"
        for         = "2s"
      }
    }
  }
  service "shop" {
    servers = 2
    route {
      listen = "127.0.0.1:18083"
    }
  }
}
