# Three keys, so that a grant on one opens nothing of the others: what tenants wrote (database), what opens it (secrets), what was
# said about it (logs, alarms).

locals {
  key_administration = {
    Sid       = "TheAccountsOwnPoliciesDecide"
    Effect    = "Allow"
    Principal = { AWS = "arn:${local.partition}:iam::${local.account}:root" }
    Action    = "kms:*"
    Resource  = "*"
  }
}

resource "aws_kms_key" "database" {
  description             = "${var.name}: database, backups and performance data"
  enable_key_rotation     = true
  deletion_window_in_days = 30
  policy                  = jsonencode({ Version = "2012-10-17", Statement = [local.key_administration] })
  tags                    = local.tags
}

resource "aws_kms_key" "secrets" {
  description             = "${var.name}: master key, database password, images, node programs"
  enable_key_rotation     = true
  deletion_window_in_days = 30
  policy                  = jsonencode({ Version = "2012-10-17", Statement = [local.key_administration] })
  tags                    = local.tags
}

resource "aws_kms_key" "logs" {
  description             = "${var.name}: logs and alarms"
  enable_key_rotation     = true
  deletion_window_in_days = 30
  tags                    = local.tags
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      local.key_administration,
      {
        Sid       = "LogGroupsOfThisInstallation"
        Effect    = "Allow"
        Principal = { Service = "logs.${local.region}.amazonaws.com" }
        Action    = ["kms:Encrypt*", "kms:Decrypt*", "kms:ReEncrypt*", "kms:GenerateDataKey*", "kms:Describe*"]
        Resource  = "*"
        Condition = { ArnLike = { "kms:EncryptionContext:aws:logs:arn" = [
          for group in ["/galley/${var.name}/*", "/aws/rds/cluster/${var.name}/*"] : "arn:${local.partition}:logs:${local.region}:${local.account}:log-group:${group}"
        ] } }
      },
      {
        Sid       = "AlarmsOfThisAccount"
        Effect    = "Allow"
        Principal = { Service = ["cloudwatch.amazonaws.com", "events.rds.amazonaws.com"] }
        Action    = ["kms:Decrypt", "kms:GenerateDataKey*"]
        Resource  = "*"
        Condition = { StringEquals = { "aws:SourceAccount" = local.account } }
      },
    ]
  })
}

resource "aws_kms_alias" "this" {
  for_each = { database = aws_kms_key.database.key_id, secrets = aws_kms_key.secrets.key_id, logs = aws_kms_key.logs.key_id }

  name          = "alias/${var.name}-${each.key}"
  target_key_id = each.value
}
