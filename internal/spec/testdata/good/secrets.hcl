service "shop" {
  image {
    ref = "shop:1"
  }
  port = 8080
  secret "session-key" {
    from = { age = "secrets/session.age" }
  }
  secret "DB_PASSWORD" {
    from = { command = ["pass", "show", "shop/db"] }
    as   = "env"
  }
  secret "API_TOKEN" {
    from = { env = "SHOP_TOKEN" }
  }
  secret "tls.key" {
    from = { file = "../tls.key" }
    as   = "file"
  }
  config "/etc/shop/app.toml" {
    from = { file = "app.toml" }
  }
  config "/etc/shop/extra.toml" {
    content = <<-TOML
      [limits]
      carts = 3
    TOML
  }
}
