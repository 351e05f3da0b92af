# Three zones, a database with two readers to fail over to, nothing that can be deleted by mistake, alarms that reach somebody, and
# other accounts' VPCs through PrivateLink. The state is kept in S3, encrypted and locked.

terraform {
  required_version = ">= 1.11"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 6.20, < 7.0"
    }
  }

  # bucket and region by -backend-config.
  backend "s3" {
    key          = "galley/terraform.tfstate"
    encrypt      = true
    use_lockfile = true
  }
}

provider "aws" {
  region              = "eu-central-1"
  allowed_account_ids = [var.account_id]
}

variable "account_id" {
  description = "The account that this may be applied to."
  type        = string
}

variable "domain" {
  description = "A name in the hosted zone."
  type        = string
}

variable "hosted_zone_id" {
  description = "The Route 53 zone of the domain."
  type        = string
}

variable "release" {
  description = "The tag of the images to run; null until they are pushed."
  type        = string
  default     = null
}

variable "database_ca_pem" {
  description = "The region's RDS authorities."
  type        = string
}

variable "database_password" {
  description = "See the module."
  type        = string
  default     = null
  sensitive   = true
  ephemeral   = true
}

variable "master_key" {
  description = "See the module."
  type        = string
  default     = null
  sensitive   = true
  ephemeral   = true
}

variable "consumers" {
  description = "ARNs of the accounts that may make endpoints to this installation."
  type        = list(string)
  default     = []
}

variable "on_call" {
  description = "Who is written to when an alarm goes off."
  type        = list(string)
}

module "galley" {
  source = "../.."

  name               = "galley"
  domain             = var.domain
  hosted_zone_id     = var.hosted_zone_id
  availability_zones = ["eu-central-1a", "eu-central-1b", "eu-central-1c"]
  release            = var.release
  cpu_architecture   = "X86_64"

  database_ca_pem   = var.database_ca_pem
  database_password = var.database_password
  master_key        = var.master_key

  database = {
    instance_class = "db.r7g.xlarge"
    instances      = 3
    backup_days    = 35
  }
  gateways    = { cpu = 2048, memory = 4096, count = 3, max_count = 12 }
  shard_hosts = { cpu = 4096, memory = 16384, count = 3 }

  privatelink = length(var.consumers) == 0 ? null : {
    allowed_principals = var.consumers
    private_dns        = true
  }

  alarm_emails = var.on_call
  tags         = { environment = "production" }
}

output "galley" {
  description = "Everything that the next steps need."
  value       = module.galley
}
