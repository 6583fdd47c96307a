service "a" {
  image {
    context = "."
  }
  port = 80
  route {
    listen = "80"
  }
  route {
    listen = 80
  }
  route {
    listen = "shop.example.com:80"
  }
  route {
    listen = ":99999"
  }
  route {
    host = "x"
  }
  route {
    listen = ":81"
    host   = "http://shop.example.com/"
    path   = "shop"
  }
  route {
    listen = "2001:db8::1:82"
  }
}
service "b" {
  image {
    context = "."
  }
  port = 80
  route {
    listen = ":83"
    path   = "/x/"
  }
  route {
    listen = "[::]:83"
    path   = "/x"
  }
}
service "c" {
  image {
    context = "."
  }
  port     = 80
  protocol = "tcp"
  route {
    listen = "127.0.0.1:83"
  }
  route {
    listen = ":84"
    host   = "x.example.com"
  }
}
service "d" {
  image {
    context = "."
  }
  route {
    listen = ":85"
  }
}
service "e" {
  image {
    context = "."
  }
  port = 80
  route {
    listen = ":84"
  }
  deploy {
    overlap = true
  }
}
