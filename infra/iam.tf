# A role for each thing that acts, with what it needs and no more.
#
#   execution/<service>   ECS, before a process runs: its image, its secrets, its log
#   task/<service>        the process itself. The server calls no AWS API.
#   node                  instances: fetch the node's programs

locals {
  assume = {
    for service in ["ecs-tasks", "ec2", "monitoring.rds", "vpc-flow-logs", "backup"] : service => jsonencode({
      Version = "2012-10-17"
      Statement = [merge(
        { Effect = "Allow", Principal = { Service = "${service}.amazonaws.com" }, Action = "sts:AssumeRole" },
        # Only for this account's sake; EC2 does not say for whose it asks.
        { for key, value in { Condition = { StringEquals = { "aws:SourceAccount" = local.account } } } : key => value if service != "ec2" },
      )]
    })
  }
}

resource "aws_iam_role" "execution" {
  for_each = toset(keys(local.services))

  name               = "${var.name}-execution-${each.key}"
  description        = "ECS starts ${each.key} of ${var.name}"
  assume_role_policy = local.assume["ecs-tasks"]
  tags               = local.tags
}

resource "aws_iam_role_policy" "execution" {
  for_each = local.services

  name = "start"
  role = aws_iam_role.execution[each.key].id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid      = "RegistryLogin"
        Effect   = "Allow"
        Action   = "ecr:GetAuthorizationToken"
        Resource = "*"
      },
      {
        Sid      = "Image"
        Effect   = "Allow"
        Action   = ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
        Resource = aws_ecr_repository.this[each.value.image].arn
      },
      {
        Sid      = "Log"
        Effect   = "Allow"
        Action   = ["logs:CreateLogStream", "logs:PutLogEvents"]
        Resource = "${aws_cloudwatch_log_group.service[each.key].arn}:*"
      },
      {
        Sid      = "Secrets"
        Effect   = "Allow"
        Action   = "secretsmanager:GetSecretValue"
        Resource = values(each.value.secrets)
      },
      {
        Sid       = "OpenSecrets"
        Effect    = "Allow"
        Action    = "kms:Decrypt"
        Resource  = aws_kms_key.secrets.arn
        Condition = { StringEquals = { "kms:ViaService" = "secretsmanager.${local.region}.amazonaws.com" } }
      },
    ]
  })
}

resource "aws_iam_role" "task" {
  for_each = toset(["gateways", "shard-hosts"])

  name               = "${var.name}-task-${each.key}"
  description        = "${each.key} of ${var.name}"
  assume_role_policy = local.assume["ecs-tasks"]
  tags               = local.tags
}

# The one thing that is asked of AWS from inside a task of the server, and only where it is wanted.
resource "aws_iam_role_policy" "execute_command" {
  for_each = var.execute_command ? aws_iam_role.task : {}

  name = "execute-command"
  role = each.value.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid      = "Session"
        Effect   = "Allow"
        Action   = ["ssmmessages:CreateControlChannel", "ssmmessages:CreateDataChannel", "ssmmessages:OpenControlChannel", "ssmmessages:OpenDataChannel"]
        Resource = "*"
      },
      {
        Sid      = "SessionKey"
        Effect   = "Allow"
        Action   = "kms:Decrypt"
        Resource = aws_kms_key.logs.arn
      },
    ]
  })
}

# Nodes

resource "aws_iam_role" "node" {
  name               = "${var.name}-node"
  description        = "Instances of tenants' node groups. Pods can reach it where a cluster does not forbid them the metadata address."
  assume_role_policy = local.assume["ec2"]
  tags               = local.tags
}

resource "aws_iam_role_policy" "node" {
  name = "programs"
  role = aws_iam_role.node.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid      = "Programs"
        Effect   = "Allow"
        Action   = "s3:GetObject"
        Resource = "${aws_s3_bucket.nodes.arn}/*"
      },
      {
        Sid       = "OpenPrograms"
        Effect    = "Allow"
        Action    = "kms:Decrypt"
        Resource  = aws_kms_key.secrets.arn
        Condition = { StringEquals = { "kms:ViaService" = "s3.${local.region}.amazonaws.com" }, StringLike = { "kms:EncryptionContext:aws:s3:arn" = "${aws_s3_bucket.nodes.arn}*" } }
      },
    ]
  })
}

resource "aws_iam_role_policy_attachment" "node_ssm" {
  count = var.node_ssm ? 1 : 0

  role       = aws_iam_role.node.name
  policy_arn = "arn:${local.partition}:iam::aws:policy/AmazonSSMManagedInstanceCore"
}

resource "aws_iam_instance_profile" "node" {
  name = "${var.name}-node"
  role = aws_iam_role.node.name
  tags = local.tags
}

# AWS's own services

resource "aws_iam_role" "database_monitoring" {
  name               = "${var.name}-database-monitoring"
  assume_role_policy = local.assume["monitoring.rds"]
  tags               = local.tags
}

resource "aws_iam_role_policy_attachment" "database_monitoring" {
  role       = aws_iam_role.database_monitoring.name
  policy_arn = "arn:${local.partition}:iam::aws:policy/service-role/AmazonRDSEnhancedMonitoringRole"
}

resource "aws_iam_role" "backup" {
  name               = "${var.name}-backup"
  assume_role_policy = local.assume["backup"]
  tags               = local.tags
}

resource "aws_iam_role_policy_attachment" "backup" {
  role       = aws_iam_role.backup.name
  policy_arn = "arn:${local.partition}:iam::aws:policy/service-role/AWSBackupServiceRolePolicyForBackup"
}

resource "aws_iam_role" "flow_log" {
  count = local.make_network ? 1 : 0

  name               = "${var.name}-flow-log"
  assume_role_policy = local.assume["vpc-flow-logs"]
  tags               = local.tags
}

resource "aws_iam_role_policy" "flow_log" {
  count = local.make_network ? 1 : 0

  name = "write"
  role = aws_iam_role.flow_log[0].id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect   = "Allow"
      Action   = ["logs:CreateLogStream", "logs:PutLogEvents", "logs:DescribeLogStreams"]
      Resource = "${aws_cloudwatch_log_group.flow[0].arn}:*"
    }]
  })
}
