service "shop" {
  image {
  }
  port = 8080
  servers = 2000
  route {
    listen = ":80"
  }
}

service "shop-staging" {
  image {
  }
}

environment "staging" {
  colour = "red"
  service "shpo" {
    servers = 2
  }
  service "shop" {
    servers = 2
    image {
      ref = "shop:1"
    }
  }
}

environment "staging" {
}

environment "Production" {
}

environment {
}

environment "production" {
  kiln = ""
  env  = "A=1"
  service "shop" {
    serves = 2
    health "http" {
      interval = 5
    }
  }
  service "shop" {
  }
}

environment "a-name-that-is-longer-than-it-should-be" {
}
