"""Copies all rows of one DynamoDB table into another: python3 tools/copy_rows.py SOURCE TARGET

A row with the same key is replaced; no row is deleted. It says how many were copied. The region is that of
AWS_DEFAULT_REGION or AWS_REGION. Capacity: it reads the source once and writes every row once.
"""

import os
import sys

import boto3


def copy(source, target):
    copied, start = 0, {}
    with target.batch_writer() as batch:
        while start is not None:
            page = source.scan(ConsistentRead=True, **start)
            for row in page["Items"]:
                batch.put_item(Item=row)
                copied += 1
            last = page.get("LastEvaluatedKey")
            start = {"ExclusiveStartKey": last} if last else None
    return copied


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] == sys.argv[2]:
        sys.exit(__doc__)
    # boto3 itself reads the first of the two variables alone.
    region = os.environ.get("AWS_DEFAULT_REGION") or os.environ.get("AWS_REGION")
    source, target = (boto3.resource("dynamodb", region_name=region).Table(name) for name in sys.argv[1:])
    print(f"{copy(source, target)} rows copied from {source.name} to {target.name}")
