# What the processes are told, and that nothing runs before there is something to run.

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

run "before_a_release_there_are_repositories_and_no_services" {
  assert {
    condition     = length(aws_ecs_service.this) == 0 && length(aws_cloudwatch_metric_alarm.this) == 0
    error_message = "Services without images, or their alarms."
  }

  assert {
    condition     = length(aws_ecr_repository.this) == 2
    error_message = "Nowhere to push images to."
  }
}

run "each_role_runs_twice_over_the_zones_in_private_subnets" {
  variables {
    release = "v1.2.3"
  }

  assert {
    condition     = toset(keys(aws_ecs_service.this)) == toset(["gateways", "shard-hosts"])
    error_message = "Not the services that there should be."
  }

  assert {
    condition     = alltrue([for service in aws_ecs_service.this : service.desired_count >= 2])
    error_message = "A service without a second process."
  }

  assert {
    condition = alltrue([for service in aws_ecs_service.this :
      !service.network_configuration[0].assign_public_ip && length(service.network_configuration[0].subnets) == 3
    ])
    error_message = "Services must be in the private subnets of every zone."
  }

  assert {
    condition     = alltrue([for service in aws_ecs_service.this : service.deployment_circuit_breaker[0].rollback && service.deployment_minimum_healthy_percent == 100])
    error_message = "A bad release would take the service down."
  }
}

run "only_gateways_are_reached_by_the_load_balancer_which_passes_tls_through" {
  variables {
    release = "v1.2.3"
  }

  assert {
    condition     = length(aws_ecs_service.this["gateways"].load_balancer) == 1 && length(aws_ecs_service.this["shard-hosts"].load_balancer) == 0
    error_message = "The load balancer leads to the wrong service."
  }

  assert {
    condition     = aws_lb_listener.clients.protocol == "TCP" && aws_lb_listener.clients.port == 443
    error_message = "TLS would be ended before the gateway, which finds the cluster by it."
  }

  assert {
    condition     = toset([for record in aws_route53_record.this : record.name]) == toset(["galley.example.com", "*.galley.example.com"])
    error_message = "A cluster's name would lead nowhere."
  }
}

run "processes_are_told_what_they_need_and_secrets_by_reference" {
  variables {
    release = "v1.2.3"
  }

  assert {
    condition     = endswith(jsondecode(aws_ecs_task_definition.this["gateways"].container_definitions)[0].image, ":v1.2.3")
    error_message = "Not the release that was asked for."
  }

  assert {
    condition = alltrue([for task in aws_ecs_task_definition.this :
      toset([for secret in jsondecode(task.container_definitions)[0].secrets : secret.name]) == toset(["DATABASE_URL", "GALLEY_MASTER_KEY"])
    ])
    error_message = "Secrets are missing, or there are more than are needed."
  }

  assert {
    condition = alltrue([for task in aws_ecs_task_definition.this :
      !strcontains(task.container_definitions, "abcdefghijklmnopqrstuvwx0123") && !strcontains(task.container_definitions, "00112233445566778899aabbccddeeff")
    ])
    error_message = "A secret is in a task definition."
  }

  assert {
    condition     = contains(jsondecode(aws_ecs_task_definition.this["shard-hosts"].container_definitions)[0].environment, { name = "GALLEY_PEER_ADVERTISE", value = "10.64.0.0/16" })
    error_message = "Shard hosts would not be found by their peers."
  }

  assert {
    condition     = contains(jsondecode(aws_ecs_task_definition.this["shard-hosts"].container_definitions)[0].environment, { name = "GALLEY_CACHE_MEMORY", value = "4915Mi" })
    error_message = "The cache would not fit the task."
  }
}

run "a_role_may_read_its_own_secrets_and_log_and_nothing_else_of_the_kind" {
  assert {
    condition = alltrue([for policy in aws_iam_role_policy.execution : alltrue([
      for statement in jsondecode(policy.policy).Statement : statement.Resource != "*" || statement.Action == "ecr:GetAuthorizationToken"
    ])])
    error_message = "An execution role may do something with everything."
  }

  assert {
    condition     = length(aws_iam_role_policy.execute_command) == 2
    error_message = "Administrators have no way in."
  }
}

run "without_execute_command_the_server_has_no_permission_at_all" {
  variables {
    execute_command = false
    release         = "v1.2.3"
  }

  assert {
    condition     = length(aws_iam_role_policy.execute_command) == 0
    error_message = "The server may do something at AWS."
  }

  assert {
    condition     = alltrue([for task in aws_ecs_task_definition.this : jsondecode(task.container_definitions)[0].readonlyRootFilesystem])
    error_message = "The root file system can be written."
  }
}

run "every_alarm_reaches_the_topic" {
  variables {
    release      = "v1.2.3"
    alarm_emails = ["on-call@example.com"]
  }

  assert {
    condition     = alltrue([for alarm in aws_cloudwatch_metric_alarm.this : toset(alarm.alarm_actions) == toset([aws_sns_topic.alarms.arn])])
    error_message = "An alarm that nobody hears."
  }

  assert {
    condition     = length(aws_sns_topic_subscription.alarms) == 1
    error_message = "Nobody listens."
  }
}
