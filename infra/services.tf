# The server as two Fargate services: gateways, which clients reach, and shard hosts, which own the clusters. Both keep nothing: all
# state is in the database.

resource "aws_ecs_cluster" "this" {
  name = var.name
  tags = local.tags

  setting {
    name  = "containerInsights"
    value = "enabled"
  }

  configuration {
    execute_command_configuration {
      kms_key_id = aws_kms_key.logs.arn
      logging    = "NONE"
    }
  }
}

resource "aws_ecs_cluster_capacity_providers" "this" {
  cluster_name       = aws_ecs_cluster.this.name
  capacity_providers = ["FARGATE"]
}

locals {
  # What each process of the server is started with.
  server_environment = {
    GALLEY_DATA_DIR  = "/var/lib/galley"
    GALLEY_DOMAIN    = var.domain
    GALLEY_ADVERTISE = "https://${var.domain}:${local.client_port}"
    GALLEY_LOG       = var.log_filter
    GALLEY_LOG_JSON  = "true"
  }
  server_secrets = {
    DATABASE_URL      = aws_secretsmanager_secret.database_url.arn
    GALLEY_MASTER_KEY = aws_secretsmanager_secret.master_key.arn
  }

  services = {
    gateways = {
      image          = "server"
      command        = ["run", "--role", "gateway", "--listen", "0.0.0.0:${local.gateway_port}"]
      environment    = local.server_environment
      secrets        = local.server_secrets
      port           = local.gateway_port
      cpu            = var.gateways.cpu
      memory         = var.gateways.memory
      count          = var.gateways.count
      security_group = aws_security_group.gateways.id
      target_group   = aws_lb_target_group.gateways.arn
      task_role      = aws_iam_role.task["gateways"].arn
    }
    shard-hosts = {
      image   = "server"
      command = ["run", "--role", "shard-host", "--peer-listen", "0.0.0.0:${local.peer_port}"]
      environment = merge(local.server_environment, {
        # A task learns its address when it starts: the one of this network is told to the other replicas.
        GALLEY_PEER_ADVERTISE = local.network_cidr
        GALLEY_LEASE_SECONDS  = tostring(var.lease_seconds)
        # The rest is for requests, controllers, and the process itself.
        GALLEY_CACHE_MEMORY = "${floor(var.shard_hosts.memory * 0.6)}Mi"
      })
      secrets        = local.server_secrets
      port           = local.peer_port
      cpu            = var.shard_hosts.cpu
      memory         = var.shard_hosts.memory
      count          = var.shard_hosts.count
      security_group = aws_security_group.shard_hosts.id
      target_group   = null
      task_role      = aws_iam_role.task["shard-hosts"].arn
    }
  }
}

resource "aws_ecs_task_definition" "this" {
  for_each = var.release == null ? {} : local.services

  family                   = "${var.name}-${each.key}"
  requires_compatibilities = ["FARGATE"]
  network_mode             = "awsvpc"
  cpu                      = each.value.cpu
  memory                   = each.value.memory
  execution_role_arn       = aws_iam_role.execution[each.key].arn
  task_role_arn            = each.value.task_role
  tags                     = local.tags

  runtime_platform {
    operating_system_family = "LINUX"
    cpu_architecture        = var.cpu_architecture
  }

  # Its owner is the user of the image, as the image says.
  volume {
    name = "data"
  }

  container_definitions = jsonencode([{
    name                   = each.key
    image                  = "${aws_ecr_repository.this[each.value.image].repository_url}:${var.release}"
    essential              = true
    command                = each.value.command
    environment            = [for name in sort(keys(each.value.environment)) : { name = name, value = each.value.environment[name] }]
    secrets                = [for name in sort(keys(each.value.secrets)) : { name = name, valueFrom = each.value.secrets[name] }]
    portMappings           = each.value.port == null ? [] : [{ name = each.key, containerPort = each.value.port, hostPort = each.value.port, protocol = "tcp" }]
    mountPoints            = [{ sourceVolume = "data", containerPath = "/var/lib/galley", readOnly = false }]
    readonlyRootFilesystem = !var.execute_command
    linuxParameters        = { initProcessEnabled = true }
    # A connection is a file; a gateway holds one for each watch and node.
    ulimits = [{ name = "nofile", softLimit = 262144, hardLimit = 262144 }]
    # Handing shards over takes a second; this is the bound.
    stopTimeout = 30
    logConfiguration = {
      logDriver = "awslogs"
      options = {
        awslogs-group         = aws_cloudwatch_log_group.service[each.key].name
        awslogs-region        = local.region
        awslogs-stream-prefix = "task"
        mode                  = "non-blocking"
        max-buffer-size       = "16m"
      }
    }
  }])
}

resource "aws_ecs_service" "this" {
  for_each = aws_ecs_task_definition.this

  name                   = each.key
  cluster                = aws_ecs_cluster.this.id
  task_definition        = each.value.arn
  desired_count          = local.services[each.key].count
  launch_type            = "FARGATE"
  platform_version       = "LATEST"
  enable_execute_command = var.execute_command
  propagate_tags         = "SERVICE"
  tags                   = local.tags
  # Tasks read secrets when they start.
  triggers             = { database_password = tostring(var.database_password_version) }
  force_new_deployment = true

  availability_zone_rebalancing      = "ENABLED"
  deployment_minimum_healthy_percent = 100
  deployment_maximum_percent         = 200
  health_check_grace_period_seconds  = local.services[each.key].target_group == null ? null : 60

  deployment_circuit_breaker {
    enable   = true
    rollback = true
  }

  network_configuration {
    subnets          = local.private_subnet_ids
    security_groups  = [local.services[each.key].security_group]
    assign_public_ip = false
  }

  dynamic "load_balancer" {
    for_each = local.services[each.key].target_group[*]

    content {
      target_group_arn = load_balancer.value
      container_name   = each.key
      container_port   = local.services[each.key].port
    }
  }

  # Autoscaling's afterwards.
  lifecycle {
    ignore_changes = [desired_count]
  }

  depends_on = [
    aws_lb_listener.clients,
    aws_rds_cluster_instance.this,
    aws_secretsmanager_secret_version.database_url,
    aws_secretsmanager_secret_version.master_key,
    aws_iam_role_policy.execution,
  ]
}

# Gateways follow the load. Shard hosts have a fixed number, which only a change here alters.
resource "aws_appautoscaling_target" "this" {
  for_each = { for name, service in aws_ecs_service.this : name => service.name }

  service_namespace  = "ecs"
  scalable_dimension = "ecs:service:DesiredCount"
  resource_id        = "service/${aws_ecs_cluster.this.name}/${each.value}"
  min_capacity       = local.services[each.key].count
  max_capacity       = each.key == "gateways" ? var.gateways.max_count : local.services[each.key].count
  tags               = local.tags
}

resource "aws_appautoscaling_policy" "gateways" {
  count = var.release == null ? 0 : 1

  name               = "${var.name}-gateways-cpu"
  policy_type        = "TargetTrackingScaling"
  service_namespace  = aws_appautoscaling_target.this["gateways"].service_namespace
  scalable_dimension = aws_appautoscaling_target.this["gateways"].scalable_dimension
  resource_id        = aws_appautoscaling_target.this["gateways"].resource_id

  target_tracking_scaling_policy_configuration {
    target_value = 55
    # A gateway that goes takes its connections with it: slowly down.
    scale_in_cooldown  = 900
    scale_out_cooldown = 60

    predefined_metric_specification {
      predefined_metric_type = "ECSServiceAverageCPUUtilization"
    }
  }
}

# Who reaches whom: load balancer -> gateways -> shard hosts -> database; shard hosts also reach each other.

resource "aws_security_group" "gateways" {
  name_prefix = "${var.name}-gateways-"
  description = "galley-server, role gateway"
  vpc_id      = local.vpc_id
  tags        = merge(local.tags, { Name = "${var.name}-gateways" })

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_security_group" "shard_hosts" {
  name_prefix = "${var.name}-shard-hosts-"
  description = "galley-server, role shard-host"
  vpc_id      = local.vpc_id
  tags        = merge(local.tags, { Name = "${var.name}-shard-hosts" })

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_vpc_security_group_ingress_rule" "gateways" {
  security_group_id            = aws_security_group.gateways.id
  description                  = "Clients, and health checks, through the load balancer"
  referenced_security_group_id = aws_security_group.balancer.id
  ip_protocol                  = "tcp"
  from_port                    = local.gateway_port
  to_port                      = local.gateway_port
}

resource "aws_vpc_security_group_ingress_rule" "shard_hosts" {
  for_each = { gateways = aws_security_group.gateways.id, shard-hosts = aws_security_group.shard_hosts.id }

  security_group_id            = aws_security_group.shard_hosts.id
  description                  = "Mutual TLS from the ${each.key}"
  referenced_security_group_id = each.value
  ip_protocol                  = "tcp"
  from_port                    = local.peer_port
  to_port                      = local.peer_port
}

resource "aws_vpc_security_group_egress_rule" "peers" {
  for_each = { gateways = aws_security_group.gateways.id, shard-hosts = aws_security_group.shard_hosts.id }

  security_group_id            = each.value
  description                  = "Shard hosts"
  referenced_security_group_id = aws_security_group.shard_hosts.id
  ip_protocol                  = "tcp"
  from_port                    = local.peer_port
  to_port                      = local.peer_port
}

resource "aws_vpc_security_group_egress_rule" "database" {
  for_each = { gateways = aws_security_group.gateways.id, shard-hosts = aws_security_group.shard_hosts.id }

  security_group_id            = each.value
  description                  = "PostgreSQL"
  referenced_security_group_id = aws_security_group.database.id
  ip_protocol                  = "tcp"
  from_port                    = local.database_port
  to_port                      = local.database_port
}

resource "aws_vpc_security_group_egress_rule" "https" {
  for_each = { gateways = aws_security_group.gateways.id, shard-hosts = aws_security_group.shard_hosts.id }

  security_group_id = each.value
  description       = "AWS APIs; clusters' webhooks by URL"
  cidr_ipv4         = "0.0.0.0/0"
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
}
