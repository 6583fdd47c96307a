# What becomes of servers that serve, and what they keep.
service "db" {
  image {
    ref = "docker.io/base/postgresql:15"
  }
  port     = 5432
  protocol = "tcp"
  volume "data" {
    path = "/var/lib/postgresql/"
    size = "10GiB"
  }
  drift {
    response = "alert"
    interval = "5s"
  }
  shell = "deny"
  park  = "0s"
}

service "shop" {
  image {
    context = "."
  }
  servers = 3
  port    = 8080
  volume "uploads" {
    path   = "/srv/uploads"
    access = "shared"
  }
  volume "cache" {
    path   = "/srv/cache"
    access = "shared"
  }
  lifetime {
    max_age = "1.5d"
    jitter  = "25%"
  }
  chaos {
    mean_between = "2d"
    hours        = "22:00-4:30"
    days         = ["fri", "mon", "sun"]
    time_zone    = "Europe/Berlin"
    kinds        = ["freeze", "kill"]
    lasts        = "10s"
  }
  retention {
    releases = 10
    for      = "90d"
  }
  park = "1h"
}

# What is said is the default, and the same as if it was not said.
service "plain" {
  image {
    context = "."
  }
  servers = 2
  drift {
    response = "replace"
    interval = "30s"
  }
  lifetime {
    max_age = "24h"
  }
  chaos {
    mean_between = "1d12h"
    hours        = "00:00-24:00"
    days         = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
    time_zone    = "UTC"
    kinds        = ["kill"]
    lasts        = "30s"
  }
  retention {
    releases = 5
    for      = "30d"
  }
  shell = "allow"
  park  = "15m"
}
