service "shop" {
  image {
    context = "."
  }
  policy {
    root             = "false"
    exposed          = true
    setuid_allowed   = ["usr/bin/su", "/**"]
    sise             = "500MiB"
    unpacked_size    = 500
    world_writeable  = false
    forbidden_paths  = ["etc/ssh"]
    labels = {
      "org.example.team" = "a(b"
    }
  }
  policy {
  }
}

service "two" {
  image {
    context = "."
  }
  policy {
    forbidden_packages = ["openssl<", "*", "telnetd", "telnetd"]
    vulnerabilities {
      severity = "hihg"
      ignore   = "CVE-1"
    }
  }
}
