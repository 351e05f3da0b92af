# Names and numbers that several files use.

locals {
  account   = data.aws_caller_identity.current.account_id
  region    = data.aws_region.current.region
  partition = data.aws_partition.current.partition

  tags = merge({ "galley.dev/installation" = var.name }, var.tags)

  make_network        = var.existing_network == null
  vpc_id              = local.make_network ? one(aws_vpc.this[*].id) : var.existing_network.vpc_id
  network_cidr        = local.make_network ? var.vpc_cidr : var.existing_network.cidr
  public_subnet_ids   = local.make_network ? [for zone in var.availability_zones : aws_subnet.public[zone].id] : var.existing_network.public_subnet_ids
  private_subnet_ids  = local.make_network ? [for zone in var.availability_zones : aws_subnet.private[zone].id] : var.existing_network.private_subnet_ids
  database_subnet_ids = local.make_network ? [for zone in var.availability_zones : aws_subnet.database[zone].id] : var.existing_network.database_subnet_ids

  # What the processes listen on, and what clients connect to. kubeconfigs carry the latter.
  client_port   = 443
  gateway_port  = 6443
  peer_port     = 6444
  database_port = 5432
}
