# An application in Node.js and its PostgreSQL, from Debian's packages. The
# database's files are on a volume: they outlive its servers.
service "notes" {
  image {
    context = "app"
  }

  servers  = 2
  port     = 8080
  connects = ["db"] # the name db.kiln

  route {
    listen = "127.0.0.1:18082"
  }

  health "http" {
    path = "/healthz" # asks the database
  }

  env = {
    PGHOST = "db.kiln"
  }

  resources {
    memory = "256MiB"
    cpus   = 1
  }

  # A server that has been changed is replaced, one that is a day old too.
  drift {
    response = "replace"
    interval = "30s"
  }
  lifetime {
    max_age = "24h"
    jitter  = "10%"
  }
}

service "db" {
  image {
    context = "db"
  }

  servers  = 1
  port     = 5432
  protocol = "tcp"

  health "exec" {
    command = ["/usr/bin/pg_isready", "-q", "-h", "127.0.0.1"]
  }

  # One server at a time has it: the old one is stopped before the new one
  # starts, and "kiln plan" says how long that may take.
  volume "data" {
    path   = "/var/lib/postgresql/data"
    access = "single-writer"
  }

  ephemeral "/var/run/postgresql" {
    size = "1MiB"
  }

  resources {
    memory = "512MiB"
    cpus   = 1
  }
}
