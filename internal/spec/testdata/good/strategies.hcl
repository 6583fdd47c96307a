service "shop" {
  image {
  }
  servers  = 4
  port     = 8080
  connects = ["db", "cache"]
  route {
    listen = ":443"
    host   = "shop.example.com"
    tls {
      cert = "/etc/kiln/shop.pem"
      key  = "/etc/kiln/shop.key"
    }
  }
  route {
    listen = ":443"
    host   = "www.example.com"
    tls {
      acme {
        email     = "ops@example.com"
        directory = "https://127.0.0.1:14000/dir"
        roots     = "/etc/pebble.pem"
      }
    }
  }
  route {
    listen   = ":80"
    host     = "shop.example.com"
    redirect = "https"
  }
  route {
    listen         = ":8081"
    redirect       = "https://www.example.com:8443"
    proxy_protocol = true
  }
  deploy {
    strategy        = "canary"
    max_unavailable = 1
    canary {
      step {
        weight = "5%"
        hold   = "1m"
      }
      step {
        weight = "25%"
      }
      cookie = "kiln-canary"
      header = "X-Kiln-Canary"
    }
  }
}

service "web" {
  image {
  }
  servers = 3
  port    = 8080
  route {
    listen = ":443"
    host   = "web.example.com"
    tls {
      acme {
      }
    }
  }
  deploy {
    strategy  = "rolling"
    max_surge = 2
  }
}

service "api" {
  image {
  }
  servers = 0
  port    = 8080
  route {
    listen = ":9000"
  }
  deploy {
    strategy = "canary"
  }
}

service "worker" {
  image {
  }
  servers        = 2
  user_namespace = false
  deploy {
    strategy        = "rolling"
    overlap         = true
    max_unavailable = "50%"
    max_surge       = 0
  }
}

service "db" {
  image {
  }
  port           = 5432
  protocol       = "tcp"
  proxy_protocol = "v2"
  route {
    listen = ":5433"
    host   = "db.example.com"
    tls {
      cert = "/etc/kiln/db.pem"
      key  = "/etc/kiln/db.key"
    }
  }
}

service "queue" {
  image {
  }
  port     = 5672
  protocol = "tcp"
  route {
    listen = ":5433"
    host   = "queue.example.com"
    tls {
      cert = "/etc/kiln/queue.pem"
      key  = "/etc/kiln/queue.key"
    }
  }
}
