"""What the emulator cannot do, each in one place: what is changed of the built template, or made after the deployment.

A fault of the emulator is worked around here and never in the product. Remove one, and the walk says whether a newer
version still needs it.
"""


def alarms_with_metric_math_are_left_out(template):
    """It refuses an alarm with `Metrics`. Says which; `sam validate --lint` still reads them."""
    left_out = [name for name, resource in template["Resources"].items() if "Metrics" in resource.get("Properties", {})]
    for name in left_out:
        del template["Resources"][name]
    return left_out


def routes_are_made_one_by_one(gateway, api_id, body):
    """It ignores the `Body` of an API, in which SAM writes all routes."""
    made = {}
    existing = {route["RouteKey"] for route in gateway.get_routes(ApiId=api_id)["Items"]}
    for path, methods in body["paths"].items():
        for method, operation in methods.items():
            if not isinstance(operation, dict) or "x-amazon-apigateway-integration" not in operation:
                continue
            key = "$default" if path == "/$default" else f"{method.upper()} {path}"
            assert key not in existing, f"the emulator reads {key} from the body now: this deviation can go"
            integration = operation["x-amazon-apigateway-integration"]
            answer = gateway.create_integration(
                ApiId=api_id,
                IntegrationType="AWS_PROXY",
                IntegrationUri=integration["uri"],
                PayloadFormatVersion=integration["payloadFormatVersion"],
            )
            gateway.create_route(ApiId=api_id, RouteKey=key, Target=f"integrations/{answer['IntegrationId']}")
            made[key] = integration["uri"]
    return made
