# Aurora PostgreSQL: all state of the installation. Encrypted at rest and on the way, backed up to any second of the last days.

resource "aws_db_subnet_group" "this" {
  name       = var.name
  subnet_ids = local.database_subnet_ids
  tags       = local.tags
}

locals {
  postgres_major = split(".", var.database.engine_version)[0]
}

resource "aws_rds_cluster_parameter_group" "this" {
  name_prefix = "${var.name}-${local.postgres_major}-"
  family      = "aurora-postgresql${local.postgres_major}"
  description = "${var.name}: TLS only; DDL and slow statements are logged"
  tags        = local.tags

  parameter {
    name  = "rds.force_ssl"
    value = "1"
  }

  parameter {
    name  = "log_statement"
    value = "ddl"
  }

  parameter {
    name  = "log_min_duration_statement"
    value = "1000"
  }

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_rds_cluster" "this" {
  cluster_identifier = var.name
  engine             = "aurora-postgresql"
  engine_version     = var.database.engine_version
  database_name      = "galley"
  port               = local.database_port

  master_username            = "galley"
  master_password_wo         = var.database_password
  master_password_wo_version = var.database_password_version

  db_subnet_group_name            = aws_db_subnet_group.this.name
  vpc_security_group_ids          = [aws_security_group.database.id]
  db_cluster_parameter_group_name = aws_rds_cluster_parameter_group.this.name
  storage_encrypted               = true
  kms_key_id                      = aws_kms_key.database.arn

  backup_retention_period      = var.database.backup_days
  preferred_backup_window      = var.database.backup_window
  preferred_maintenance_window = var.database.maintenance_window
  copy_tags_to_snapshot        = true
  deletion_protection          = var.deletion_protection
  skip_final_snapshot          = !var.database.final_snapshot
  final_snapshot_identifier    = var.database.final_snapshot ? "${var.name}-final" : null
  delete_automated_backups     = !var.database.final_snapshot

  # An administrator's way in without the password; the server has its own.
  iam_database_authentication_enabled = true
  enabled_cloudwatch_logs_exports     = ["postgresql"]
  tags                                = local.tags

  dynamic "serverlessv2_scaling_configuration" {
    for_each = var.database.serverless_capacity[*]

    content {
      min_capacity = serverlessv2_scaling_configuration.value.min
      max_capacity = serverlessv2_scaling_configuration.value.max
    }
  }

  depends_on = [aws_cloudwatch_log_group.database]
}

resource "aws_rds_cluster_instance" "this" {
  count = var.database.instances

  identifier         = "${var.name}-${count.index}"
  cluster_identifier = aws_rds_cluster.this.id
  engine             = aws_rds_cluster.this.engine
  engine_version     = aws_rds_cluster.this.engine_version
  instance_class     = var.database.serverless_capacity == null ? var.database.instance_class : "db.serverless"
  # Any of them may become the writer.
  promotion_tier             = 0
  publicly_accessible        = false
  ca_cert_identifier         = var.database.ca
  auto_minor_version_upgrade = true
  copy_tags_to_snapshot      = true

  monitoring_interval             = 60
  monitoring_role_arn             = aws_iam_role.database_monitoring.arn
  performance_insights_enabled    = true
  performance_insights_kms_key_id = aws_kms_key.database.arn
  tags                            = local.tags
}

resource "aws_security_group" "database" {
  name_prefix = "${var.name}-database-"
  description = "PostgreSQL of the installation"
  vpc_id      = local.vpc_id
  tags        = merge(local.tags, { Name = "${var.name}-database" })

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_vpc_security_group_ingress_rule" "database" {
  for_each = { gateways = aws_security_group.gateways.id, shard-hosts = aws_security_group.shard_hosts.id }

  security_group_id            = aws_security_group.database.id
  description                  = "PostgreSQL from the ${each.key}"
  referenced_security_group_id = each.value
  ip_protocol                  = "tcp"
  from_port                    = local.database_port
  to_port                      = local.database_port
}

# A second, independent line of backups, which outlives the cluster.

resource "aws_backup_vault" "this" {
  name        = var.name
  kms_key_arn = aws_kms_key.database.arn
  tags        = local.tags
}

resource "aws_backup_plan" "this" {
  name = var.name
  tags = local.tags

  rule {
    rule_name         = "daily"
    target_vault_name = aws_backup_vault.this.name
    schedule          = "cron(0 5 * * ? *)"

    lifecycle {
      delete_after = var.database.backup_days
    }
  }
}

resource "aws_backup_selection" "this" {
  name         = var.name
  plan_id      = aws_backup_plan.this.id
  iam_role_arn = aws_iam_role.backup.arn
  resources    = [aws_rds_cluster.this.arn]
}
