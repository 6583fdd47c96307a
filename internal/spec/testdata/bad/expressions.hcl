service "é" {
  image {
    context = var.x
    ref = upper("a")
  }
  größe = 1
}
