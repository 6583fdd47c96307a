service "shop" {
  image {
  }
  policy {
    root = false
    require {
      checks = ["policy/root", "image/self-test"]
      served {
        environment = "qa"
        for         = "2h"
      }
    }
  }
}

environment "staging" {
}

environment "production" {
  policy {
    require {
      signed    = ["ci", "keys/release.pub"]
      approvals = ["ann", "bob"]
      approvers = 1
      served {
        environment = "staging"
        for         = "1h"
      }
    }
  }
}
