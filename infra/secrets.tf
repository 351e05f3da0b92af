# What the processes are told in secret. The values are write-only: they go to Secrets Manager and are in no state.

resource "aws_secretsmanager_secret" "database_url" {
  name                    = "${var.name}/database-url"
  description             = "DATABASE_URL of galley-server"
  kms_key_id              = aws_kms_key.secrets.arn
  recovery_window_in_days = var.deletion_protection ? 30 : 7
  tags                    = local.tags
}

resource "aws_secretsmanager_secret_version" "database_url" {
  secret_id = aws_secretsmanager_secret.database_url.id
  # The certificates travel in the URL: the server takes only a database that the region's RDS authorities vouch for.
  secret_string_wo = (var.database_password == null ? null : join("", [
    "postgres://galley:", var.database_password, "@", aws_rds_cluster.this.endpoint, ":", local.database_port, "/galley",
    "?sslmode=verify-full&sslrootcert=", urlencode(trimspace(var.database_ca_pem)),
  ]))
  secret_string_wo_version = var.database_password_version
}

resource "aws_secretsmanager_secret" "master_key" {
  name                    = "${var.name}/master-key"
  description             = "GALLEY_MASTER_KEY: wraps the keys of all clusters. Losing it loses their Secrets."
  kms_key_id              = aws_kms_key.secrets.arn
  recovery_window_in_days = 30
  tags                    = local.tags
}

resource "aws_secretsmanager_secret_version" "master_key" {
  secret_id        = aws_secretsmanager_secret.master_key.id
  secret_string_wo = var.master_key
  # It cannot be changed: what is in the database opens with this one only.
  secret_string_wo_version = 1
}
