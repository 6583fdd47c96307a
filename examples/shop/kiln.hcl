# The shop: three servers behind one route, proved before they get traffic.
service "shop" {
  image {
    context       = "."
    containerfile = "Containerfile"
  }

  servers  = 3
  port     = 8080
  protocol = "http"

  route {
    listen = "127.0.0.1:18080"
  }

  health "http" {
    path     = "/healthz"
    interval = "1s"
    timeout  = "1s"
  }

  validate "http" "home page" {
    path     = "/"
    status   = 200
    contains = "Shop"
  }
  validate "exec" "self-test" {
    command = ["/app", "selftest"]
    timeout = "30s"
  }

  deploy {
    strategy  = "blue-green"
    deadline  = "5m"
    keep_warm = "2m"
    drain {
      requests   = "10s"
      streams    = "20s"
      websockets = "20s"
    }
  }

  env = {
    LOG_LEVEL = "info"
  }

  resources {
    memory = "128MiB"
    cpus   = 1
  }
}
