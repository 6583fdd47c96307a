service "shop" {
  image {
    context = "."
  }
  servers = 2
  drift {
    response = "reploce"
    interval = "10ms"
  }
  lifetime {
    max_age = "30s"
    jitter  = "95%"
  }
  chaos {
    mean_between = "2days"
    hours        = "9-15"
    days         = ["mon", "Tuesday"]
    time_zone    = "Europe/Berln"
    kinds        = ["kill", "terminat"]
    lasts        = "0s"
  }
  retention {
    releases = 0
    for      = "1week"
  }
  shell = "never"
  park  = "-5m"
}

service "two" {
  image {
    context = "."
  }
  lifetime {
    jitter = 10
  }
  chaos {
    hours     = "09:00-25:00"
    days      = ["xyz"]
    time_zone = "berlin"
    kinds     = ["explode"]
  }
  max_age = "1h"
}

service "three" {
  image {
    context = "."
  }
  lifetime {
    max_age = "0s"
    jitter  = "ten"
  }
  chaos {
    mean_between = "1h"
    hours        = "10:00-10:00"
    days         = ["mon", "mon"]
    time_zone    = "Local"
    kinds        = []
  }
  chaos {
    mean_between = "1h"
  }
  drift "x" {
  }
}
