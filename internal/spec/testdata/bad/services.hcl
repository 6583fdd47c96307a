service "shop" {
  image {
    context = "."
  }
}
service "shop" {
  image {
    context = "."
  }
}
service "My_Shop" {
  image {
    context = "."
  }
}
service {
}
service "a" "b" {
}
service "noimage" {
}
service "both" {
  image {
    context = "."
    ref     = "base/debian:12"
  }
}
service "badref" {
  image {
    ref = "https://example.com/x y"
  }
}
service "attribute" {
  image = "nginx"
}
service "twice" {
  image {
    context = ""
  }
  image {
    containerfile = "/etc/passwd"
  }
}
service "epoch" {
  image {
    source_date_epoch = "yesterday"
  }
}
service "offline" {
  image {
    context = "."
    network = "lockd"
  }
}
service "pulled" {
  image {
    ref     = "base/debian:12"
    network = "none"
  }
}
