service "shop" {
  image {
    ref = "shop:1"
  }
  env = {
    TOKEN = "plain"
  }
  secret "none" {
  }
  secret "text" {
    from = "db.txt"
  }
  secret "two" {
    from = { file = "a", env = "B" }
  }
  secret "empty" {
    from = {}
  }
  secret "fiel" {
    from = { fiel = "a" }
  }
  secret "words" {
    from = { command = "pass show db" }
  }
  secret "nothing" {
    from = { command = [] }
  }
  secret "variable" {
    from = { env = "NOT-A-NAME" }
  }
  secret "no/path" {
    from = { file = "a" }
  }
  secret "not-a-variable" {
    from = { file = "a" }
    as   = "env"
  }
  secret "TOKEN" {
    from = { file = "a" }
    as   = "env"
  }
  secret "AGAIN" {
    from = { file = "" }
    as   = "enf"
  }
  secret "twice" {
    from = { file = "a" }
  }
  secret "twice" {
    from = { file = "b" }
    value = "hunter2"
  }
  secret {
    from = { file = "b" }
  }
  config "etc/app.toml" {
    content = "a"
  }
  config "/etc/app/" {
    content = "a"
  }
  config "/etc/both.toml" {
    content = "a"
    from    = { file = "a" }
  }
  config "/etc/neither.toml" {
  }
  config "/etc/env.toml" {
    from = { env = "CONFIG" }
  }
  config "/etc/hosts" {
    content = "a"
  }
  config "/run/secrets/x" {
    content = "a"
  }
  config "/etc/dir" {
    content = "a"
  }
  config "/etc/dir/file" {
    content = "a"
  }
  ephemeral "/run/secrets" {
  }
}
