# Ranges, ways out, and who is let in.

mock_provider "aws" {
  source = "./tests/mocks"
}

variables {
  domain             = "galley.example.com"
  hosted_zone_id     = "Z0123456789"
  availability_zones = ["eu-central-1a", "eu-central-1b", "eu-central-1c"]
  database_ca_pem    = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
  database_password  = "abcdefghijklmnopqrstuvwx0123"
  master_key         = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
}

run "subnets_of_three_kinds_are_in_every_zone_and_none_gives_out_public_addresses" {
  assert {
    condition     = length(aws_subnet.private) == 3 && length(aws_subnet.public) == 3 && length(aws_subnet.database) == 3
    error_message = "A zone lacks a subnet."
  }

  assert {
    condition     = aws_subnet.private["eu-central-1b"].cidr_block == "10.64.32.0/19" && aws_subnet.public["eu-central-1a"].cidr_block == "10.64.192.0/23" && aws_subnet.database["eu-central-1a"].cidr_block == "10.64.208.0/23"
    error_message = "Ranges moved: existing installations would be torn down."
  }

  assert {
    condition     = alltrue([for subnet in aws_subnet.public : !subnet.map_public_ip_on_launch])
    error_message = "What is started in a public subnet would be on the internet."
  }

  assert {
    condition     = length(aws_nat_gateway.this) == 3
    error_message = "A zone depends on another for its way out."
  }
}

run "one_nat_gateway_serves_all_zones_where_money_matters_more" {
  variables {
    nat_gateways = "one"
  }

  assert {
    condition     = length(aws_nat_gateway.this) == 1 && length(aws_route.private) == 3
    error_message = "Not one gateway for three zones."
  }
}

run "the_smallest_range_holds_six_zones" {
  variables {
    vpc_cidr           = "10.1.0.0/20"
    availability_zones = ["a", "b", "c", "d", "e", "f"]
  }

  assert {
    condition     = length(distinct([for subnet in concat(values(aws_subnet.private), values(aws_subnet.public), values(aws_subnet.database)) : subnet.cidr_block])) == 18
    error_message = "Two subnets share a range."
  }
}

run "an_existing_vpc_is_used_and_none_is_made" {
  variables {
    existing_network = {
      vpc_id              = "vpc-1"
      cidr                = "172.20.0.0/16"
      public_subnet_ids   = ["subnet-1", "subnet-2"]
      private_subnet_ids  = ["subnet-3", "subnet-4"]
      database_subnet_ids = ["subnet-5", "subnet-6"]
    }
    release = "v1.2.3"
  }

  assert {
    condition     = length(aws_vpc.this) == 0 && length(aws_subnet.private) == 0 && length(aws_nat_gateway.this) == 0 && length(aws_vpc_endpoint.interface) == 0 && length(aws_flow_log.this) == 0
    error_message = "Something was made in a VPC that is not ours."
  }

  assert {
    condition     = toset(aws_ecs_service.this["gateways"].network_configuration[0].subnets) == toset(["subnet-3", "subnet-4"]) && toset(aws_lb.this.subnets) == toset(["subnet-1", "subnet-2"])
    error_message = "Not the subnets that were given."
  }

  assert {
    condition     = contains(jsondecode(aws_ecs_task_definition.this["shard-hosts"].container_definitions)[0].environment, { name = "GALLEY_PEER_ADVERTISE", value = "172.20.0.0/16" })
    error_message = "Peers are looked for in another network."
  }
}

run "an_internal_load_balancer_is_in_private_subnets" {
  variables {
    internal = true
  }

  assert {
    condition     = aws_lb.this.internal && toset(aws_lb.this.subnets) == toset([for subnet in aws_subnet.private : subnet.id])
    error_message = "The load balancer could be reached from outside."
  }
}

run "only_the_server_reaches_the_database" {
  assert {
    condition     = toset(keys(aws_vpc_security_group_ingress_rule.database)) == toset(["gateways", "shard-hosts"])
    error_message = "Others than the server reach the database."
  }

  assert {
    condition     = length(aws_route_table.database) == 1 && length([for route in aws_route.private : route if route.route_table_id == aws_route_table.database[0].id]) == 0
    error_message = "The database's subnets have a way out."
  }
}

run "privatelink_has_its_name_verified" {
  variables {
    privatelink = {
      allowed_principals = ["arn:aws:iam::444455556666:root"]
      private_dns        = true
    }
  }

  override_resource {
    target = aws_vpc_endpoint_service.this
    values = {
      private_dns_name_configuration = [{ name = "_abc", type = "TXT", value = "vpce:xyz", state = "pendingVerification" }]
    }
  }

  assert {
    condition     = aws_vpc_endpoint_service.this[0].acceptance_required && aws_vpc_endpoint_service.this[0].private_dns_name == "*.galley.example.com"
    error_message = "Consumers come in unasked, or under no name."
  }

  assert {
    condition     = aws_route53_record.privatelink_verification[0].name == "_abc.galley.example.com"
    error_message = "AWS would not find the record."
  }
}
