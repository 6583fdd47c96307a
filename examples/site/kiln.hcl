# A web site on nginx from Debian's packages, two servers.
service "site" {
  image {
    context       = "."
    containerfile = "Containerfile"
  }

  servers = 2
  port    = 8080

  route {
    listen = "127.0.0.1:18081"
  }

  health "http" {
    path = "/healthz"
  }

  validate "http" "front page" {
    path     = "/"
    status   = 200
    contains = "served by nginx"
  }
  validate "exec" "configuration" {
    command = ["/usr/sbin/nginx", "-t", "-q", "-g", "pid /tmp/nginx-test.pid;"]
    timeout = "10s"
  }

  deploy {
    deadline  = "5m"
    keep_warm = "2m"
    drain {
      requests = "10s"
    }
  }

  resources {
    memory = "128MiB"
    cpus   = 1
  }

  # nginx keeps uploads and answers that do not fit in memory here.
  ephemeral "/var/cache/nginx" {
    size = "64MiB"
  }
}
