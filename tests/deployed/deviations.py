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


def routes_are_made_one_by_one(gateway, api_id, body, made):
    """It ignores the `Body` of an API, in which SAM writes all routes. `made` are those of an earlier deployment: AWS
    removes those that are not in the body any more."""
    existing = {route["RouteKey"]: route["RouteId"] for route in gateway.get_routes(ApiId=api_id)["Items"]}
    wanted = set()
    for path, methods in body["paths"].items():
        for method, operation in methods.items():
            if not isinstance(operation, dict) or "x-amazon-apigateway-integration" not in operation:
                continue
            key = "$default" if path == "/$default" else f"{method.upper()} {path}"
            wanted.add(key)
            if key in made:
                continue
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
    for key in made.keys() - wanted:
        gateway.delete_route(ApiId=api_id, RouteId=existing[key])
        del made[key]
    return made


def the_apis_own_endpoint_stays_open(status):
    """SAM closes it in the `Body`, which is ignored; AWS answers 404 there."""
    assert status == 200, "the emulator closes an API's own endpoint now: this deviation can go"


def a_mapping_is_not_in_the_path_of_its_event(link, right):
    """AWS leaves a mapping's key in `rawPath`, where base URLs come from; tests/lambda/http.rs sends such events."""
    assert link != right, "the emulator leaves the mapping in the path now: this deviation can go"
