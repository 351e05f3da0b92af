# Logs, alarms, and one page to look at.

resource "aws_cloudwatch_log_group" "service" {
  for_each = toset(keys(local.services))

  name              = "/galley/${var.name}/${each.key}"
  retention_in_days = var.log_retention_days
  kms_key_id        = aws_kms_key.logs.arn
  tags              = local.tags
}

# RDS would make it by itself, without a retention.
resource "aws_cloudwatch_log_group" "database" {
  name              = "/aws/rds/cluster/${var.name}/postgresql"
  retention_in_days = var.log_retention_days
  kms_key_id        = aws_kms_key.logs.arn
  tags              = local.tags
}

resource "aws_cloudwatch_log_metric_filter" "errors" {
  for_each = aws_cloudwatch_log_group.service

  name           = "errors"
  log_group_name = each.value.name
  pattern        = "{ $.level = \"ERROR\" }"

  metric_transformation {
    namespace     = "Galley/${var.name}"
    name          = "Errors-${each.key}"
    value         = "1"
    default_value = "0"
  }
}

resource "aws_sns_topic" "alarms" {
  name              = "${var.name}-alarms"
  kms_master_key_id = aws_kms_key.logs.id
  tags              = local.tags
}

resource "aws_sns_topic_subscription" "alarms" {
  for_each = toset(var.alarm_emails)

  topic_arn = aws_sns_topic.alarms.arn
  protocol  = "email"
  endpoint  = each.key
}

locals {
  balancer_dimensions = { LoadBalancer = aws_lb.this.arn_suffix, TargetGroup = aws_lb_target_group.gateways.arn_suffix }
  database_dimensions = { DBClusterIdentifier = aws_rds_cluster.this.cluster_identifier }

  # Each with what to do first.
  alarms = merge(
    {
      gateways-unhealthy = {
        description = "A gateway fails its health check (/readyz, which asks the database). Look at the service's events and log."
        namespace   = "AWS/NetworkELB", metric = "UnHealthyHostCount", statistic = "Maximum", dimensions = local.balancer_dimensions
        above       = true, threshold = 0, periods = 3, missing = "notBreaching"
      }
      gateways-few = {
        description = "Fewer than two gateways are healthy: the next failure is an outage."
        namespace   = "AWS/NetworkELB", metric = "HealthyHostCount", statistic = "Minimum", dimensions = local.balancer_dimensions
        above       = false, threshold = 2, periods = 3, missing = "breaching"
      }
      connections-reset = {
        description = "Gateways reset many connections: they are overloaded, or die."
        namespace   = "AWS/NetworkELB", metric = "TCP_Target_Reset_Count", statistic = "Sum", dimensions = { LoadBalancer = aws_lb.this.arn_suffix }
        above       = true, threshold = 1000, periods = 5, missing = "notBreaching"
      }
      database-cpu = {
        description = "The database's processor is the limit. Raise instance_class or serverless_capacity."
        namespace   = "AWS/RDS", metric = "CPUUtilization", statistic = "Average", dimensions = merge(local.database_dimensions, { Role = "WRITER" })
        above       = true, threshold = 80, periods = 15, missing = "breaching"
      }
      database-memory = {
        description = "Less than 512 MiB of the database's memory are free."
        namespace   = "AWS/RDS", metric = "FreeableMemory", statistic = "Minimum", dimensions = local.database_dimensions
        above       = false, threshold = 536870912, periods = 15, missing = "notBreaching"
      }
      database-commit-latency = {
        description = "Commits take longer than 50 ms: every write of every cluster waits for one."
        namespace   = "AWS/RDS", metric = "CommitLatency", statistic = "Average", dimensions = merge(local.database_dimensions, { Role = "WRITER" })
        above       = true, threshold = 50, periods = 10, missing = "notBreaching"
      }
      database-replica-lag = {
        description = "A reader is more than 2 s behind: a failover would wait for it."
        namespace   = "AWS/RDS", metric = "AuroraReplicaLagMaximum", statistic = "Maximum", dimensions = local.database_dimensions
        above       = true, threshold = 2000, periods = 5, missing = "notBreaching"
      }
    },
    [for name, service in local.services : {
      "${name}-cpu" = {
        description = "The ${name} use more than 85 % of their processors."
        namespace   = "AWS/ECS", metric = "CPUUtilization", statistic = "Average", dimensions = { ClusterName = aws_ecs_cluster.this.name, ServiceName = name }
        above       = true, threshold = 85, periods = 15, missing = "notBreaching"
      }
      "${name}-memory" = {
        description = "The ${name} use more than 90 % of their memory: beyond it they are killed."
        namespace   = "AWS/ECS", metric = "MemoryUtilization", statistic = "Maximum", dimensions = { ClusterName = aws_ecs_cluster.this.name, ServiceName = name }
        above       = true, threshold = 90, periods = 5, missing = "notBreaching"
      }
      "${name}-running" = {
        description = "Fewer ${name} run than should. Look at the service's events: image, secrets, capacity."
        namespace   = "ECS/ContainerInsights", metric = "RunningTaskCount", statistic = "Minimum", dimensions = { ClusterName = aws_ecs_cluster.this.name, ServiceName = name }
        above       = false, threshold = service.count, periods = 5, missing = "breaching"
      }
      "${name}-errors" = {
        description = "The ${name} log errors. Insights: fields @timestamp, fields.message | filter level = 'ERROR'"
        namespace   = "Galley/${var.name}", metric = "Errors-${name}", statistic = "Sum", dimensions = {}
        above       = true, threshold = 10, periods = 5, missing = "notBreaching"
      }
    }]...
  )
}

resource "aws_cloudwatch_metric_alarm" "this" {
  # Before the services run they would only say that nothing does.
  for_each = var.release == null ? {} : local.alarms

  alarm_name          = "${var.name}-${each.key}"
  alarm_description   = each.value.description
  namespace           = each.value.namespace
  metric_name         = each.value.metric
  statistic           = each.value.statistic
  dimensions          = each.value.dimensions
  comparison_operator = each.value.above ? "GreaterThanThreshold" : "LessThanThreshold"
  threshold           = each.value.threshold
  period              = 60
  evaluation_periods  = each.value.periods
  treat_missing_data  = each.value.missing
  alarm_actions       = [aws_sns_topic.alarms.arn]
  ok_actions          = [aws_sns_topic.alarms.arn]
  tags                = local.tags
}

# The database's own events: failover, maintenance, storage.
resource "aws_db_event_subscription" "this" {
  name             = var.name
  sns_topic        = aws_sns_topic.alarms.arn
  source_type      = "db-cluster"
  source_ids       = [aws_rds_cluster.this.id]
  event_categories = ["failover", "failure", "maintenance", "notification"]
  tags             = local.tags
}

locals {
  widgets = concat(
    [for name in sort(keys(local.services)) : {
      title = "${name}: processor and memory (%)"
      metrics = [for metric in ["CPUUtilization", "MemoryUtilization"] :
        ["AWS/ECS", metric, "ClusterName", aws_ecs_cluster.this.name, "ServiceName", name]
      ]
    }],
    [
      {
        title   = "connections"
        metrics = [for metric in ["ActiveFlowCount", "NewFlowCount"] : ["AWS/NetworkELB", metric, "LoadBalancer", aws_lb.this.arn_suffix]]
      },
      {
        title   = "healthy gateways"
        metrics = [["AWS/NetworkELB", "HealthyHostCount", "TargetGroup", aws_lb_target_group.gateways.arn_suffix, "LoadBalancer", aws_lb.this.arn_suffix]]
      },
      {
        title   = "database: commits (ms)"
        metrics = [["AWS/RDS", "CommitLatency", "DBClusterIdentifier", aws_rds_cluster.this.cluster_identifier, "Role", "WRITER"]]
      },
      {
        title   = "database: processor (%)"
        metrics = [for role in ["WRITER", "READER"] : ["AWS/RDS", "CPUUtilization", "DBClusterIdentifier", aws_rds_cluster.this.cluster_identifier, "Role", role]]
      },
      {
        title   = "database: connections"
        metrics = [["AWS/RDS", "DatabaseConnections", "DBClusterIdentifier", aws_rds_cluster.this.cluster_identifier, "Role", "WRITER"]]
      },
      {
        title   = "errors in logs"
        metrics = [for name in sort(keys(local.services)) : ["Galley/${var.name}", "Errors-${name}", { stat = "Sum" }]]
      },
    ],
  )
}

resource "aws_cloudwatch_dashboard" "this" {
  dashboard_name = var.name
  dashboard_body = jsonencode({ widgets = [for number, widget in local.widgets : {
    type       = "metric"
    x          = number % 2 * 12
    y          = floor(number / 2) * 6
    width      = 12
    height     = 6
    properties = { title = widget.title, region = local.region, view = "timeSeries", period = 60, metrics = widget.metrics }
  }] })
}
