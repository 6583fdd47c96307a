service "a" {
  image {
    context = "."
  }
  protocol = "htpp"
  health "http" {
    path = "healthz"
  }
  health "tcp" {
  }
  validate "http" {
  }
  validate "http" "one" {
    port    = 80
    matches = "a(b"
    status  = 42
    headers = {
      "Bad Name" = "x"
    }
  }
  validate "exec" "one" {
    path = "/"
  }
  validate "grpc" "two" {
    port = 80
  }
  validate "tcp" "three" {
  }
  validate "exec" "four" {
    command = "/app selftest | grep ok"
  }
}
service "b" {
  image {
    context = "."
  }
  health "https" {
  }
}
service "c" {
  image {
    context = "."
  }
  health "exec" {
    command = []
  }
  deploy {
    strategy  = "rolling"
    keep_warm = "1m"
  }
}
service "d" {
  image {
    context = "."
  }
  deploy {
    strategy = "bluegreen"
    drain {
      websocket = "1m"
    }
  }
}
