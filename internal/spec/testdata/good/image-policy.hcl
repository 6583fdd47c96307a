service "shop" {
  image {
    context = "."
  }
  port = 8080
  policy {
    root            = false
    exposed         = true
    setuid          = false
    setuid_allowed  = ["/usr/bin/sudo"]
    world_writable  = false
    devices         = false
    size            = "500MiB"
    unpacked_size   = "2GiB"
    forbidden_paths = ["/etc/ssh/**", "**/.git"]
    forbidden_packages = ["telnetd", "openssl<3.0.14"]
    vulnerabilities {
      list     = "osv/"
      severity = "high"
      ignore   = ["CVE-2026-1"]
    }
    labels = {
      "org.example.team" = "[a-z]+"
    }
  }
}
