service "shop" {
  image {
    context = "."
    dockerfile = "Dockerfile"
  }
  replicas = 3
  prot = 8080
  connects = ["db"]
  bananas = 1
  helth "http" {
  }
  env {
    A = "b"
  }
  route = {
    listen = ":80"
  }
}
servce "x" {
}
