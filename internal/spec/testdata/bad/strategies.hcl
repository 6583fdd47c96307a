service "a" {
  image {
  }
  port = 80
  route {
    listen = ":80"
  }
  deploy {
    max_surge = 1
    canary {
    }
  }
}

service "b" {
  image {
  }
  servers = 3
  port    = 80
  route {
    listen = ":81"
  }
  deploy {
    strategy        = "rolling"
    max_surge       = 0
    max_unavailable = "25%"
  }
}

service "c" {
  image {
  }
  servers = 3
  port    = 80
  route {
    listen = ":82"
  }
  deploy {
    strategy = "canary"
    canary {
      step {
        weight = "50%"
        hold   = 15
      }
      step {
        weight = "50%"
        hold   = "15"
      }
      step {
        weight = "100%"
      }
      step {
        weight = "0%"
      }
      step {
        weight = 10
      }
      step {
        weight = "most"
      }
      step {
        hold = "1s"
      }
      cookie = "kiln canary"
      header = "X Kiln"
      sticky = true
    }
  }
}

service "d" {
  image {
  }
  deploy {
    strategy = "canary"
  }
}

service "e" {
  image {
  }
  deploy {
    strategy = "roling"
  }
}

service "f" {
  image {
  }
  connects       = ["f", "db", "db", "Big DB", "db.kiln"]
  user_namespace = "no"
  proxy_protocol = 2
  port           = 80
  strategy       = "rolling"
  tls {
  }
}

service "g" {
  image {
  }
  connects       = "db"
  proxy_protocol = "v1"
  port           = 80
  route {
    listen = ":83"
  }
  deploy {
    strategy  = "blue-green"
    max_surge = "30%"
  }
}

service "h" {
  image {
  }
  servers  = 2
  port     = 80
  protocol = "tcp"
  route {
    listen = ":84"
  }
  deploy {
    strategy        = "rolling"
    max_surge       = "200%"
    max_unavailable = 3
  }
}

service "i" {
  image {
  }
  port     = 80
  protocol = "tcp"
  route {
    listen = ":85"
  }
  deploy {
    strategy = "canary"
    canary {
      cookie = "c"
    }
  }
}

service "j" {
  image {
  }
  port = 80
  route {
    listen = ":86"
  }
  deploy {
    strategy = "canary"
    deadline = "1m"
    canary {
      step {
        weight = "10%"
        hold   = "59s"
      }
      step {
        weight = "20%"
        hold   = "1s"
      }
    }
  }
}
