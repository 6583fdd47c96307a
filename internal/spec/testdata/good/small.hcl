# The least that can be said, a worker, and everything else.
service "least" {
  image {
    context = "least"
  }
}

service "web" {
  image {
    ref = "docker.io/base/nginx:1"
  }
  port = 80
  route {
    listen = "127.0.0.1:8081"
    path   = "/a/"
  }
  route {
    listen = "127.0.0.1:8081"
    host   = "*.Example.com"
  }
}

service "worker" {
  image {
    context = "worker"
    target  = "run"
    network = "locked"
    args = {
      VERSION = 2
    }
  }
  servers     = 4
  command     = ["/worker", "-v"]
  entrypoint  = ["/init"]
  user        = "1000:1000"
  stop_signal = "SIGINT"
  stop_grace  = "1m"
  env = {
    DEBUG = true
    RATIO = 0.25
  }
  health "exec" {
    command = ["/worker", "check"]
  }
  deploy {
    max_unavailable = "50%"
    overlap         = true
  }
  resources {
    pids   = 64
    memory = "1.5GiB"
  }
  ephemeral "/var/spool" {
  }
  ephemeral "/cache" {
    size = "1GB"
  }
}
