service "a" {
  image {
    context = "."
  }
  user = "no such user"
  command = "/app serve --port 80"
  entrypoint = [["/app"]]
  stop_signal = "term"
  env = {
    "A-B" = "c"
    C     = ["x"]
    D     = null
  }
  port = null
  ephemeral "cache" {
  }
  ephemeral "/proc/x" {
  }
  ephemeral "/tmp" {
  }
  ephemeral "/" {
  }
  ephemeral "/var/lib" {
  }
  ephemeral "/var/lib/app" {
  }
  resources {
    memory = "1KiB"
    cpus = 0
  }
  resources {
  }
}
