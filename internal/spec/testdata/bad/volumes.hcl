service "db" {
  image {
    context = "."
  }
  servers = 3
  ephemeral "/var/cache" {
  }
  volume "data" {
    path = "/var/lib/db"
    size = "10G"
  }
  volume "data" {
    path = "/elsewhere"
  }
  volume "Big Data" {
    path   = "/var/cache/db"
    access = "singlewriter"
  }
  volume "inner" {
    path   = "/var/lib/db/inner"
    access = "shard"
  }
  volume "temporary" {
    path = "/tmp"
  }
  volume "relative" {
    path = "data"
  }
  volume "nowhere" {
    size = "1kB"
  }
  volume "system" {
    path = "/etc"
    mode = "shared"
  }
  volume {
    path = "/unnamed"
  }
  deploy {
    strategy  = "rolling"
    keep_warm = "1m"
    overlap   = true
  }
}
