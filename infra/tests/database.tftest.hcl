# The database, and the secrets that open it.

mock_provider "aws" {
  source = "./tests/mocks"
}

variables {
  domain             = "galley.example.com"
  hosted_zone_id     = "Z0123456789"
  availability_zones = ["eu-central-1a", "eu-central-1b"]
  database_ca_pem    = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
  database_password  = "abcdefghijklmnopqrstuvwx0123"
  master_key         = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
}

run "the_database_is_encrypted_backed_up_and_cannot_be_deleted_by_mistake" {
  assert {
    condition     = aws_rds_cluster.this.storage_encrypted && aws_rds_cluster.this.kms_key_id == aws_kms_key.database.arn
    error_message = "What tenants wrote would be in the clear."
  }

  assert {
    condition     = aws_rds_cluster.this.backup_retention_period == 14 && !aws_rds_cluster.this.skip_final_snapshot && aws_rds_cluster.this.deletion_protection
    error_message = "What tenants wrote could be lost."
  }

  assert {
    condition     = length(aws_rds_cluster_instance.this) == 2 && alltrue([for instance in aws_rds_cluster_instance.this : !instance.publicly_accessible])
    error_message = "There is nothing to fail over to, or it is on the internet."
  }

  assert {
    condition     = contains([for parameter in aws_rds_cluster_parameter_group.this.parameter : "${parameter.name}=${parameter.value}"], "rds.force_ssl=1")
    error_message = "Connections in the clear are accepted."
  }
}

run "secrets_are_in_no_state" {
  assert {
    condition     = aws_rds_cluster.this.master_password_wo == null && aws_secretsmanager_secret_version.database_url.secret_string_wo == null && aws_secretsmanager_secret_version.master_key.secret_string_wo == null
    error_message = "A secret was kept."
  }
}

run "a_database_that_follows_the_load_needs_no_instance_class" {
  variables {
    database = { serverless_capacity = { min = 0.5, max = 8 } }
  }

  assert {
    condition     = aws_rds_cluster_instance.this[0].instance_class == "db.serverless" && aws_rds_cluster.this.serverlessv2_scaling_configuration[0].max_capacity == 8
    error_message = "Not serverless."
  }
}

run "another_major_version_has_its_own_parameters" {
  variables {
    database = { engine_version = "16.6" }
  }

  assert {
    condition     = aws_rds_cluster_parameter_group.this.family == "aurora-postgresql16"
    error_message = "Parameters of another version."
  }
}
