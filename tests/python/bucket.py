"""What the tests of a bucket's options ask of a server besides etl: bucket.py URL COMMAND BUCKET [ARGUMENT]

    policy BUCKET JSON        sets the bucket's policy
    payer BUCKET              lets requesters pay
    encryption BUCKET PREFIX  prints, for each object below, its key, its algorithm and the KMS key it names
"""

import sys

import boto3

url, command, bucket, *rest = sys.argv[1:]
s3 = boto3.client("s3", endpoint_url=url, aws_access_key_id="test", aws_secret_access_key="test", region_name="us-east-1")
match command, rest:
    case "policy", [policy]:
        s3.put_bucket_policy(Bucket=bucket, Policy=policy)
    case "payer", []:
        s3.put_bucket_request_payment(Bucket=bucket, RequestPaymentConfiguration={"Payer": "Requester"})
    case "encryption", [prefix]:
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            for entry in page.get("Contents", []):
                head = s3.head_object(Bucket=bucket, Key=entry["Key"])
                print(entry["Key"], head.get("ServerSideEncryption", "-"), head.get("SSEKMSKeyId", "-"))
    case _:
        sys.exit(__doc__)
