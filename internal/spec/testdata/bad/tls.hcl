service "a" {
  image {
  }
  port = 80
  route {
    listen   = ":443"
    redirect = "https"
    tls {
      cert = "/etc/kiln/a.pem"
    }
  }
  route {
    listen   = ":80"
    redirect = "www.example.com"
  }
  route {
    listen   = ":81"
    redirect = "https://www.example.com/path"
  }
  route {
    listen   = ":82"
    redirect = "https://www.example.com/"
  }
  route {
    listen   = ":83"
    redirect = "ftp://www.example.com"
  }
}

service "b" {
  image {
  }
  port = 80
  route {
    listen = ":444"
    tls {
      acme {
      }
    }
  }
  route {
    listen = ":444"
    host   = "*.example.com"
    tls {
      acme {
        email     = "ops"
        directory = "acme.example.com"
        roots     = "pebble.pem"
      }
    }
  }
  route {
    listen = ":444"
    host   = "c.example.com"
    tls {
      key = "b.key"
    }
  }
  route {
    listen = ":444"
    host   = "d.example.com"
    tls {
      cert = "/b.pem"
      key  = "-----BEGIN PRIVATE KEY-----"
      acme {
      }
    }
  }
  route {
    listen = ":444"
    host   = "e.example.com"
    tls {
    }
  }
  route {
    listen = ":444"
    host   = "f.example.com"
  }
  route {
    listen         = ":444"
    host           = "g.example.com"
    proxy_protocol = true
    tls {
      cert = "/b.pem"
      key  = "/b.key"
    }
  }
}

service "c" {
  image {
  }
  port     = 80
  protocol = "tcp"
  route {
    listen   = ":90"
    path     = "/x"
    redirect = "https"
  }
  route {
    listen = ":91"
    host   = "c.example.com"
    tls {
      cert = "/c.pem"
      key  = "/c.key"
    }
  }
  route {
    listen = ":91"
    host   = "c.example.com"
    tls {
      cert = "/c.pem"
      key  = "/c.key"
    }
  }
}

service "d" {
  image {
  }
  port = 80
  route {
    listen = ":91"
    host   = "d.example.com"
    tls {
      cert = "/c.pem"
      key  = "/c.key"
    }
  }
}

service "e" {
  image {
  }
  port = 80
  route {
    listen   = ":8443"
    host     = "e.example.com"
    redirect = "https://e.example.com:8443"
  }
  route {
    listen   = "127.0.0.1:443"
    redirect = "https"
  }
  route {
    listen   = ":8080"
    host     = "e.example.com"
    redirect = "http://e.example.com"
  }
}
