# Static pages on nginx, both put there by an Ansible playbook.
service "almanac" {
  image {
    context = "."
  }

  servers = 2
  port    = 8080

  route {
    listen = "127.0.0.1:18082"
  }

  health "http" {
    path = "/healthz"
  }

  validate "http" "front page" {
    path     = "/"
    status   = 200
    contains = "Almanac"
  }

  resources {
    memory = "128MiB"
    cpus   = 1
  }
}
