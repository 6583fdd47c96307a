service "a" {
  image { context = "." }
  route { listen = ":80", host = "x" }
}
