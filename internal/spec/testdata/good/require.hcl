service "shop" {
  image {
  }
  policy {
    root = false
  }
}

environment "staging" {
}

environment "production" {
  policy {
    require {
      signed    = ["ci", "keys/release.pub"]
      checks    = ["policy/root", "image/self-test"]
      approvals = ["ann", "bob"]
      approvers = 1
      served {
        environment = "staging"
        for         = "1h"
      }
    }
  }
}
