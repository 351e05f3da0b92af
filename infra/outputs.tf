output "url" {
  description = "Where tenants' requests go: GALLEY_SERVER of the program galley."
  value       = "https://${var.domain}:${local.client_port}"
}

output "load_balancer" {
  description = "What domain and *.domain must lead to, where no hosted_zone_id was given."
  value       = { dns_name = aws_lb.this.dns_name, zone_id = aws_lb.this.zone_id }
}

output "repositories" {
  description = "Where images are pushed to."
  value       = { for name, repository in aws_ecr_repository.this : name => repository.repository_url }
}

output "node_bucket" {
  description = "Where the programs of nodes are put."
  value       = aws_s3_bucket.nodes.bucket
}

output "node_instance_profile" {
  description = "What instances run as."
  value       = aws_iam_instance_profile.node.name
}

output "network" {
  description = "Where the installation is; node groups may use its private subnets."
  value       = { vpc_id = local.vpc_id, private_subnet_ids = local.private_subnet_ids }
}

output "ecs_cluster" {
  description = "For aws ecs execute-command."
  value       = aws_ecs_cluster.this.name
}

output "database_endpoint" {
  description = "The writer."
  value       = aws_rds_cluster.this.endpoint
}

output "alarm_topic_arn" {
  description = "Alarms and the database's events."
  value       = aws_sns_topic.alarms.arn
}

output "privatelink_service_name" {
  description = "What consumers make an endpoint for; null without privatelink."
  value       = one(aws_vpc_endpoint_service.this[*].service_name)
}
