# What is refused before anything is made.

mock_provider "aws" {
  source = "./tests/mocks"
}

variables {
  domain             = "galley.example.com"
  hosted_zone_id     = "Z0123456789"
  availability_zones = ["eu-central-1a", "eu-central-1b"]
  database_ca_pem    = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
}

run "a_name_that_no_load_balancer_can_have" {
  command = plan

  variables {
    name = "Galley_of_the_platform_team"
  }

  expect_failures = [var.name]
}

run "a_domain_that_is_a_url" {
  command = plan

  variables {
    domain = "https://galley.example.com"
  }

  expect_failures = [var.domain]
}

run "one_zone" {
  command = plan

  variables {
    availability_zones = ["eu-central-1a"]
  }

  expect_failures = [var.availability_zones]
}

run "a_zone_twice" {
  command = plan

  variables {
    availability_zones = ["eu-central-1a", "eu-central-1a", "eu-central-1b"]
  }

  expect_failures = [var.availability_zones]
}

run "a_range_too_small" {
  command = plan

  variables {
    vpc_cidr = "10.0.0.0/24"
  }

  expect_failures = [var.vpc_cidr]
}

run "no_way_out_at_all" {
  command = plan

  variables {
    nat_gateways        = "none"
    interface_endpoints = false
  }

  expect_failures = [var.nat_gateways]
}

run "clients_that_are_no_ranges" {
  command = plan

  variables {
    client_cidrs = ["everybody"]
  }

  expect_failures = [var.client_cidrs]
}

run "an_endpoint_service_for_everybody" {
  command = plan

  variables {
    privatelink = { allowed_principals = ["*"] }
  }

  expect_failures = [var.privatelink]
}

run "a_vpc_without_public_subnets_for_a_public_load_balancer" {
  command = plan

  variables {
    existing_network = {
      vpc_id              = "vpc-1"
      cidr                = "172.20.0.0/16"
      private_subnet_ids  = ["subnet-3", "subnet-4"]
      database_subnet_ids = ["subnet-5", "subnet-6"]
    }
  }

  expect_failures = [var.existing_network]
}

run "a_password_that_does_not_fit_a_url" {
  command = plan

  variables {
    database_password = "p@ssword/with:everything-in-it"
  }

  expect_failures = [var.database_password]
}

run "a_master_key_that_is_too_short" {
  command = plan

  variables {
    master_key = "00112233"
  }

  expect_failures = [var.master_key]
}

run "certificates_that_are_none" {
  command = plan

  variables {
    database_ca_pem = "rds-ca.pem"
  }

  expect_failures = [var.database_ca_pem]
}

run "a_tag_that_moves" {
  command = plan

  variables {
    release = "latest"
  }

  expect_failures = [var.release]
}

run "one_shard_host" {
  command = plan

  variables {
    shard_hosts = { count = 1 }
  }

  expect_failures = [var.shard_hosts]
}

run "a_database_of_the_past" {
  command = plan

  variables {
    database = { engine_version = "13" }
  }

  expect_failures = [var.database]
}
