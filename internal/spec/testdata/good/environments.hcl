service "shop" {
  image {
    context = "."
  }
  servers  = 2
  port     = 8080
  connects = ["db", "mail"]
  env = {
    LOG_LEVEL = "info"
    PRICES    = "net"
  }
  route {
    listen = ":80"
    host   = "shop.example.com"
  }
  route {
    listen = ":80"
    host   = "www.example.com"
  }
  ephemeral "/var/cache/shop" {
    size = "64MiB"
  }
  health "http" {
    path = "/healthz"
  }
}

service "db" {
  image {
    ref = "postgres@sha256:0123456789012345678901234567890123456789012345678901234567890123"
  }
  port     = 5432
  protocol = "tcp"
}

environment "staging" {
  env = {
    STAGE = "staging"
  }
  service "shop" {
    servers = 1
    route {
      listen = ":80"
      host   = "staging.example.com"
    }
    env = {
      LOG_LEVEL = "debug"
    }
    health "tcp" {
    }
  }
}

environment "production" {
  kiln = "/run/kiln-production/kiln.sock"
  service "db" {
    resources {
      memory = "1GiB"
    }
  }
}
