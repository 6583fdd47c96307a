service "shop" {
  image {
  }
  policy {
    require {
      signed    = "ci"
      checks    = ["root"]
      approvals = ["ann", "bob the builder"]
      approvers = 3
      served {
        environment = "staging"
      }
      served {
        for = "0s"
      }
      serves {
      }
    }
  }
}
