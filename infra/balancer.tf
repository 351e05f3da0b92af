# A network load balancer passes TLS through: clusters are told apart by the name in it, and their own authorities end it.

resource "aws_lb" "this" {
  name                             = var.name
  load_balancer_type               = "network"
  internal                         = var.internal
  subnets                          = var.internal ? local.private_subnet_ids : local.public_subnet_ids
  security_groups                  = [aws_security_group.balancer.id]
  enable_cross_zone_load_balancing = true
  enable_deletion_protection       = var.deletion_protection
  # Consumers of the endpoint service are chosen by allowed_principals; their addresses are of their own networks.
  enforce_security_group_inbound_rules_on_private_link_traffic = "off"

  tags = local.tags
}

resource "aws_lb_target_group" "gateways" {
  name        = "${var.name}-gateways"
  vpc_id      = local.vpc_id
  target_type = "ip"
  protocol    = "TCP"
  port        = local.gateway_port
  # So that the audit of requests has clients' addresses.
  preserve_client_ip = true
  # Watches and tunnels of nodes never end by themselves; their clients resume at another gateway.
  deregistration_delay   = 30
  connection_termination = true
  tags                   = local.tags

  health_check {
    protocol            = "HTTPS"
    path                = "/readyz"
    matcher             = "200"
    interval            = 10
    timeout             = 5
    healthy_threshold   = 2
    unhealthy_threshold = 2
  }
}

resource "aws_lb_listener" "clients" {
  load_balancer_arn = aws_lb.this.arn
  protocol          = "TCP"
  port              = local.client_port
  # The longest there is: an idle `kubectl exec` or `kubectl port-forward` is not cut off.
  tcp_idle_timeout_seconds = 6000
  tags                     = local.tags

  default_action {
    type             = "forward"
    target_group_arn = aws_lb_target_group.gateways.arn
  }
}

resource "aws_security_group" "balancer" {
  name_prefix = "${var.name}-balancer-"
  description = "Clients to the load balancer"
  vpc_id      = local.vpc_id
  tags        = merge(local.tags, { Name = "${var.name}-balancer" })

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_vpc_security_group_ingress_rule" "balancer" {
  for_each = toset(var.client_cidrs)

  security_group_id = aws_security_group.balancer.id
  description       = "Clients"
  cidr_ipv4         = each.key
  ip_protocol       = "tcp"
  from_port         = local.client_port
  to_port           = local.client_port
}

resource "aws_vpc_security_group_egress_rule" "balancer" {
  security_group_id            = aws_security_group.balancer.id
  description                  = "Gateways, and their health checks"
  referenced_security_group_id = aws_security_group.gateways.id
  ip_protocol                  = "tcp"
  from_port                    = local.gateway_port
  to_port                      = local.gateway_port
}

# Names: the installation's own, and one for each cluster.

resource "aws_route53_record" "this" {
  for_each = var.hosted_zone_id == null ? [] : toset([var.domain, "*.${var.domain}"])

  zone_id = var.hosted_zone_id
  name    = each.key
  type    = "A"

  alias {
    name                   = aws_lb.this.dns_name
    zone_id                = aws_lb.this.zone_id
    evaluate_target_health = true
  }
}

# PrivateLink

resource "aws_vpc_endpoint_service" "this" {
  count = var.privatelink == null ? 0 : 1

  acceptance_required        = var.privatelink.acceptance_required
  allowed_principals         = var.privatelink.allowed_principals
  network_load_balancer_arns = [aws_lb.this.arn]
  private_dns_name           = var.privatelink.private_dns ? "*.${var.domain}" : null
  tags                       = merge(local.tags, { Name = var.name })
}

# AWS looks for it to see that the domain is ours.
resource "aws_route53_record" "privatelink_verification" {
  count = try(var.privatelink.private_dns, false) && var.hosted_zone_id != null ? 1 : 0

  zone_id = var.hosted_zone_id
  name    = "${aws_vpc_endpoint_service.this[0].private_dns_name_configuration[0].name}.${var.domain}"
  type    = aws_vpc_endpoint_service.this[0].private_dns_name_configuration[0].type
  ttl     = 300
  records = [aws_vpc_endpoint_service.this[0].private_dns_name_configuration[0].value]
}
