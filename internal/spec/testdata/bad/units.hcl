service "shop" {
  image {
    context = "."
  }
  stop_grace = 10
  port = "8080"
  servers = 2.5
  health "http" {
    interval = "10"
    timeout  = "3min"
    grace    = "1d"
    passes   = true
    fails    = -1
  }
  deploy {
    deadline = "soon"
    keep_warm = "10S"
    max_unavailable = "lots"
  }
  resources {
    memory = "64M"
    cpus   = "0.5"
    pids   = 0
  }
  ephemeral "/a" {
    size = 64
  }
  ephemeral "/b" {
    size = "12 parsecs"
  }
  ephemeral "/c" {
    size = "64"
  }
}
