# What an installation is called and where it is

variable "name" {
  description = "Names the installation; what is made here starts with it."
  type        = string
  default     = "galley"

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,18}[a-z0-9]$", var.name))
    error_message = "name must be 3 to 20 lower-case letters, digits and hyphens: load balancers' names are short."
  }
}

variable "tags" {
  description = "Tags of everything that is made here."
  type        = map(string)
  default     = {}
}

variable "domain" {
  description = "The installation answers at this name, and each cluster at a name below it."
  type        = string

  validation {
    condition     = can(regex("^([a-z0-9]([a-z0-9-]*[a-z0-9])?\\.)+[a-z]{2,}$", var.domain))
    error_message = "domain must be a DNS name such as galley.example.com."
  }
}

variable "hosted_zone_id" {
  description = "The Route 53 zone that domain is in. Null: no records are made, and the output load_balancer says what to point them at."
  type        = string
  default     = null
}

variable "deletion_protection" {
  description = "Refuse to delete the database, the load balancer, and repositories and buckets that hold something."
  type        = bool
  default     = true
}

# Network

variable "availability_zones" {
  description = "Zones to spread over."
  type        = list(string)

  validation {
    condition     = length(distinct(var.availability_zones)) >= 2 && length(distinct(var.availability_zones)) == length(var.availability_zones)
    error_message = "availability_zones must be two or more, each once: the loss of one zone must not be the loss of the installation."
  }

  validation {
    condition     = length(var.availability_zones) <= 6
    error_message = "availability_zones must be six at most: the ranges of the subnets are cut for that."
  }
}

variable "vpc_cidr" {
  description = "The range of the VPC that is made; unused with existing_network."
  type        = string
  default     = "10.64.0.0/16"

  validation {
    condition     = can(cidrhost(var.vpc_cidr, 0)) && try(tonumber(split("/", var.vpc_cidr)[1]), 0) >= 16 && try(tonumber(split("/", var.vpc_cidr)[1]), 99) <= 20
    error_message = "vpc_cidr must be an IPv4 range of /16 to /20."
  }
}

variable "existing_network" {
  description = "A VPC to use instead of making one. Private subnets need a way to ECR, Secrets Manager and CloudWatch Logs (NAT or endpoints)."
  type = object({
    vpc_id              = string
    cidr                = string
    public_subnet_ids   = optional(list(string), [])
    private_subnet_ids  = list(string)
    database_subnet_ids = list(string)
  })
  default = null

  validation {
    condition     = var.existing_network == null || try(can(cidrhost(var.existing_network.cidr, 0)), false)
    error_message = "existing_network.cidr must be the IPv4 range that holds the private subnets: replicas find their own address by it."
  }

  validation {
    condition     = var.existing_network == null || try(length(var.existing_network.private_subnet_ids) >= 2 && length(var.existing_network.database_subnet_ids) >= 2, false)
    error_message = "existing_network must have private and database subnets in two zones or more."
  }

  validation {
    condition     = var.existing_network == null || var.internal || try(length(var.existing_network.public_subnet_ids) >= 2, false)
    error_message = "existing_network must have two public subnets for a load balancer that is reached from the internet; or set internal."
  }
}

variable "nat_gateways" {
  description = "each-zone: what leaves a zone does not depend on another. one: cheaper. none: the private subnets reach AWS through interface endpoints only, and webhooks outside of the VPC cannot be called."
  type        = string
  default     = "each-zone"

  validation {
    condition     = contains(["each-zone", "one", "none"], var.nat_gateways)
    error_message = "nat_gateways must be each-zone, one or none."
  }

  validation {
    condition     = var.nat_gateways != "none" || var.interface_endpoints
    error_message = "Without NAT gateways the services need interface_endpoints."
  }
}

variable "interface_endpoints" {
  description = "Reach ECR, Secrets Manager, CloudWatch Logs and the cloud APIs inside the VPC."
  type        = bool
  default     = true
}

variable "internal" {
  description = "The load balancer has addresses of the VPC only."
  type        = bool
  default     = false
}

variable "client_cidrs" {
  description = "Who may connect to the load balancer: tenants, nodes, users of clusters."
  type        = list(string)
  default     = ["0.0.0.0/0"]

  validation {
    condition     = length(var.client_cidrs) > 0 && alltrue([for cidr in var.client_cidrs : can(cidrhost(cidr, 0)) && !strcontains(cidr, ":")])
    error_message = "client_cidrs must be IPv4 ranges."
  }
}

variable "privatelink" {
  description = "Offer the installation to other VPCs as an endpoint service. With private_dns their clients find it by its own names, once the verification record (made when hosted_zone_id is set) is seen."
  type = object({
    allowed_principals  = list(string)
    acceptance_required = optional(bool, true)
    private_dns         = optional(bool, false)
  })
  default = null

  validation {
    condition     = var.privatelink == null || try(alltrue([for arn in var.privatelink.allowed_principals : arn != "*" && startswith(arn, "arn:")]), false)
    error_message = "privatelink.allowed_principals must be ARNs of accounts, users or roles; not everybody."
  }
}

# Secrets. None of these values is kept in the state or in a plan.

variable "database_password" {
  description = "The database user's password. Needed when the database is made and when database_password_version changes."
  type        = string
  default     = null
  sensitive   = true
  ephemeral   = true

  validation {
    condition     = var.database_password == null || can(regex("^[A-Za-z0-9]{24,99}$", var.database_password))
    error_message = "database_password must be 24 to 99 letters and digits."
  }
}

variable "database_password_version" {
  description = "Raise it to change the password to the present value of database_password."
  type        = number
  default     = 1
}

variable "database_ca_pem" {
  description = "The certificates of the region's RDS authorities (PEM), which the server checks the database's against: https://truststore.pki.rds.amazonaws.com/REGION/REGION-bundle.pem"
  type        = string

  validation {
    condition     = startswith(trimspace(var.database_ca_pem), "-----BEGIN CERTIFICATE-----") && endswith(trimspace(var.database_ca_pem), "-----END CERTIFICATE-----")
    error_message = "database_ca_pem must be certificates in PEM, without text around them."
  }

  validation {
    condition     = length(var.database_ca_pem) < 20000
    error_message = "database_ca_pem must be one region's bundle: a secret has room for 64 KiB, and this is encoded in it."
  }
}

variable "master_key" {
  description = "64 hexadecimal digits (openssl rand -hex 32), which wrap the keys of all clusters. Needed when the installation is made. Keep a copy: without it the clusters' Secrets are lost."
  type        = string
  default     = null
  sensitive   = true
  ephemeral   = true

  validation {
    condition     = var.master_key == null || can(regex("^[0-9a-f]{64}$", var.master_key))
    error_message = "master_key must be 64 hexadecimal digits."
  }
}

# Database

variable "database" {
  description = "Aurora PostgreSQL. With serverless_capacity (Aurora capacity units) instance_class is not used."
  type = object({
    engine_version      = optional(string, "17")
    instance_class      = optional(string, "db.r7g.large")
    serverless_capacity = optional(object({ min = number, max = number }))
    instances           = optional(number, 2)
    backup_days         = optional(number, 14)
    backup_window       = optional(string, "02:00-03:00")
    maintenance_window  = optional(string, "sun:03:30-sun:04:30")
    ca                  = optional(string, "rds-ca-rsa2048-g1")
    final_snapshot      = optional(bool, true)
  })
  default = {}

  validation {
    condition     = var.database.instances >= 1 && var.database.instances <= 15
    error_message = "database.instances must be 1 to 15."
  }

  validation {
    condition     = var.database.backup_days >= 7 && var.database.backup_days <= 35
    error_message = "database.backup_days must be 7 to 35."
  }

  validation {
    condition     = can(regex("^1[6-9](\\.[0-9]+)?$", var.database.engine_version))
    error_message = "database.engine_version must be PostgreSQL 16 or later."
  }

  validation {
    condition     = var.database.serverless_capacity == null || try(var.database.serverless_capacity.min <= var.database.serverless_capacity.max, false)
    error_message = "database.serverless_capacity.min must not exceed max."
  }
}

# Services

variable "release" {
  description = "The tag of the images that run. Null: everything is made but the services, so that images can be pushed first."
  type        = string
  default     = null

  validation {
    condition     = var.release == null || try(var.release != "latest", false)
    error_message = "release must name one build: a tag that moves cannot be rolled back."
  }
}

variable "cpu_architecture" {
  description = "What the images were built for."
  type        = string
  default     = "X86_64"

  validation {
    condition     = contains(["X86_64", "ARM64"], var.cpu_architecture)
    error_message = "cpu_architecture must be X86_64 or ARM64."
  }
}

variable "gateways" {
  description = "Processes that end clients' TLS: CPU units (1024 are one), MiB of memory, how many at least and at most."
  type = object({
    cpu       = optional(number, 1024)
    memory    = optional(number, 2048)
    count     = optional(number, 2)
    max_count = optional(number, 6)
  })
  default = {}

  validation {
    condition     = var.gateways.count >= 2 && var.gateways.max_count >= var.gateways.count
    error_message = "gateways.count must be 2 or more, and max_count no less."
  }
}

variable "shard_hosts" {
  description = "Processes that own clusters: CPU units (1024 are one), MiB of memory, how many. Clusters move when the count changes, so it follows no load by itself."
  type = object({
    cpu    = optional(number, 2048)
    memory = optional(number, 8192)
    count  = optional(number, 2)
  })
  default = {}

  validation {
    condition     = var.shard_hosts.count >= 2
    error_message = "shard_hosts.count must be 2 or more: clusters of one that dies go on at another."
  }
}

variable "lease_seconds" {
  description = "How long clusters of a shard host that died wait at most until another takes over."
  type        = number
  default     = 15

  validation {
    condition     = var.lease_seconds >= 5 && var.lease_seconds <= 120
    error_message = "lease_seconds must be 5 to 120."
  }
}

variable "log_filter" {
  description = "What the processes log, as the crate tracing-subscriber writes it."
  type        = string
  default     = "info,sqlx=warn"
}

variable "execute_command" {
  description = "Allow `aws ecs execute-command` into the services: how tenants and tokens are made. It makes the root file system writable."
  type        = bool
  default     = true
}

# Operation

variable "log_retention_days" {
  description = "How long logs are kept."
  type        = number
  default     = 365

  validation {
    condition     = contains([30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653], var.log_retention_days)
    error_message = "log_retention_days must be one of the periods that CloudWatch Logs knows, 30 or more."
  }
}

variable "alarm_emails" {
  description = "Who is written to when an alarm goes off. Others subscribe to the topic of the output alarm_topic_arn."
  type        = list(string)
  default     = []
}

# Nodes

variable "node_ssm" {
  description = "Nodes may be reached through Systems Manager's Session Manager."
  type        = bool
  default     = false
}
