# The smallest installation that survives the loss of a process or a zone's instance, at the lowest price: one NAT gateway, a
# database that scales with use, two small processes of each role. To try Galley out, and to throw away again.

terraform {
  required_version = ">= 1.11"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 6.20, < 7.0"
    }
  }
}

provider "aws" {
  region = var.region
}

variable "region" {
  description = "Where."
  type        = string
  default     = "eu-central-1"
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

module "galley" {
  source = "../.."

  name               = "galley-try"
  domain             = var.domain
  hosted_zone_id     = var.hosted_zone_id
  availability_zones = ["${var.region}a", "${var.region}b"]
  release            = var.release

  database_ca_pem   = var.database_ca_pem
  database_password = var.database_password
  master_key        = var.master_key

  nat_gateways        = "one"
  interface_endpoints = false
  deletion_protection = false
  database = {
    serverless_capacity = { min = 0.5, max = 4 }
    final_snapshot      = false
    backup_days         = 7
  }
  gateways    = { cpu = 512, memory = 1024, max_count = 2 }
  shard_hosts = { cpu = 512, memory = 2048 }

  log_retention_days = 30
}

output "galley" {
  description = "Everything that the next steps need."
  value       = module.galley
}
