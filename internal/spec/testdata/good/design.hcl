service "shop" {
  image {
    context       = "."        # or instead of both: ref = "registry.example.com/shop@sha256:…"
    containerfile = "Containerfile"
  }
  servers  = 3
  port     = 8080
  protocol = "http"            # or h2c, tcp
  route {
    listen = ":80"
    host   = "shop.example.com"
  }
  health "http" {
    path     = "/healthz"
    interval = "1s"
    timeout  = "1s"
    passes   = 2
    fails    = 3
    grace    = "30s"
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
    strategy  = "blue-green"   # or rolling, canary
    deadline  = "10m"
    keep_warm = "10m"
    drain {
      requests   = "30s"
      streams    = "2m"
      websockets = "5m"
    }
  }
  env = {
    LOG_LEVEL = "info"
  }
  resources {
    memory = "256MiB"
    cpus   = 0.5
  }
  ephemeral "/var/cache/shop" {   # the only writable places, besides /tmp and /run
    size = "64MiB"
  }
}
