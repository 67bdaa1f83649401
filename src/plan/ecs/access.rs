//! Who may do what: the least that each role needs.

use serde_json::{Value, json};

use super::{DeployOptions, Place, Task, arn_of, cluster, of_this_account, resource, sub};

fn allow(sid: &str, actions: &[&str], resources: Value) -> Value {
    json!({"Sid": sid, "Effect": "Allow", "Action": actions, "Resource": resources})
}

fn allow_if(sid: &str, actions: &[&str], resources: Value, condition: Value) -> Value {
    let mut statement = allow(sid, actions, resources);
    statement["Condition"] = condition;
    statement
}

fn role(service: &str, condition: Value, statements: Vec<Value>) -> Value {
    resource(
        "AWS::IAM::Role",
        json!({
            "AssumeRolePolicyDocument": {"Version": "2012-10-17", "Statement": [
                {"Effect": "Allow", "Principal": {"Service": service}, "Action": "sts:AssumeRole", "Condition": condition},
            ]},
            "Policies": [{"PolicyName": "access", "PolicyDocument": {"Version": "2012-10-17", "Statement": statements}}],
        }),
    )
}

/// For ECS's own work: fetching the image and passing on the log.
pub(super) fn execution_role(options: &DeployOptions) -> Value {
    let log = sub("arn:${AWS::Partition}:logs:${AWS::Region}:${AWS::AccountId}:log-group:${LogGroup}:*");
    let mut statements = vec![allow("Log", &["logs:CreateLogStream", "logs:PutLogEvents"], log)];
    if let Some(repository) = ecr_repository(&options.image) {
        statements.push(allow("LogInToRegistry", &["ecr:GetAuthorizationToken"], json!("*")));
        let pull = ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"];
        statements.push(allow("PullImage", &pull, repository));
    }
    role("ecs-tasks.amazonaws.com", of_this_account(), statements)
}

/// The repository's ARN, where the image lies in ECR.
fn ecr_repository(image: &str) -> Option<Value> {
    let (host, path) = image.split_once('/')?;
    let [account, "dkr", "ecr", region, "amazonaws", ..] = host.split('.').collect::<Vec<_>>()[..] else { return None };
    let name = path.split(['@', ':']).next().unwrap_or(path);
    Some(sub(format!("arn:${{AWS::Partition}}:ecr:{region}:{account}:repository/{name}")))
}

/// For starting the tasks.
pub(super) fn scheduler_role(tasks: &[Task<'_>], options: &DeployOptions) -> Value {
    let definitions = sub("arn:${AWS::Partition}:ecs:${AWS::Region}:${AWS::AccountId}:task-definition/${AWS::StackName}-*:*");
    let roles: Vec<Value> =
        std::iter::once(arn_of("ExecutionRole")).chain(tasks.iter().map(|task| arn_of(&format!("{}Role", task.id)))).collect();
    let statements = vec![
        allow_if("Run", &["ecs:RunTask"], definitions, json!({"ArnEquals": {"ecs:cluster": cluster(options)}})),
        allow_if("GiveRoles", &["iam:PassRole"], json!(roles), json!({"StringEquals": {"iam:PassedToService": "ecs-tasks.amazonaws.com"}})),
        allow("KeepWhatFailed", &["sqs:SendMessage"], arn_of("DeadLetters")),
    ];
    let group = sub("arn:${AWS::Partition}:scheduler:${AWS::Region}:${AWS::AccountId}:schedule-group/${ScheduleGroup}");
    let mut condition = of_this_account();
    condition["ArnEquals"] = json!({"aws:SourceArn": group});
    role("scheduler.amazonaws.com", condition, statements)
}

/// Exactly what a run of these sources touches; see `docs/ecs.md` for the reason of each line.
pub(super) fn task_role(task: &Task<'_>, options: &DeployOptions) -> Value {
    let (bronze, silver) = (&options.bronze, &options.silver);
    let entity = &task.job.entity;
    let read: Vec<String> = task.sources.iter().map(|(_, source)| format!("database={}/entity={entity}/*", source.database)).collect();
    let mut tables = vec![entity.clone(), format!("{entity}_quarantine")];
    if task.job.upsert().is_some() {
        tables.push(format!("_etl/tombstones/{entity}"));
    }
    let of_source =
        |path: &dyn Fn(&str) -> String| -> Vec<String> { task.sources.iter().map(|(_, source)| path(&source.database)).collect() };
    let logs: Vec<String> = tables.iter().map(|table| format!("{table}/_delta_log/*")).collect();
    // Every table is partitioned by database first, and a run rewrites rows of its own database only.
    let files: Vec<String> = tables.iter().flat_map(|table| of_source(&|database| format!("{table}/database={database}/*"))).collect();
    let staged: Vec<String> = tables.iter().map(|table| format!("_etl/staging/{table}/*")).collect();
    // Who puts files together holds the table's lease, and gives it back.
    let care: Vec<String> = tables.iter().map(|table| format!("_etl/maintenance/{table}/*")).collect();
    let care_leases: Vec<String> = tables.iter().map(|table| format!("_etl/maintenance/{table}/leases/*")).collect();
    let ledgers = of_source(&|database| format!("_etl/ledger/{entity}/{database}/*"));
    let leases = of_source(&|database| format!("_etl/ledger/{entity}/{database}/leases/*"));
    let stopped = of_source(&|database| format!("_etl/stopped/{entity}/{database}/*"));
    let (runs, doctor) = (["_etl/runs/*".to_owned()], ["_etl/doctor/*".to_owned()]);

    let work = [&logs[..], &files, &staged, &care, &ledgers, &doctor].concat();
    let keep = [&stopped[..], &runs].concat();
    let delete = [&files[..], &staged, &care_leases, &leases, &doctor].concat();
    let listed = |place: &Place, paths: &[String]| {
        let prefixes: Vec<String> = paths.iter().map(|path| place.key(path)).collect();
        json!({"StringLike": {"s3:prefix": prefixes}})
    };
    let mut statements = vec![
        allow_if("ListBronze", &["s3:ListBucket"], bronze.bucket_arn(), listed(bronze, &read)),
        allow("ReadBronze", &["s3:GetObject"], bronze.objects(&read)),
        // Whoever may not list a key is told «access denied» where it does not exist, and the ledger ends where a key does not exist.
        allow_if("ListSilver", &["s3:ListBucket"], silver.bucket_arn(), listed(silver, &work)),
        allow("WorkInSilver", &["s3:GetObject", "s3:PutObject", "s3:AbortMultipartUpload"], silver.objects(&work)),
        allow("KeepRecords", &["s3:PutObject", "s3:AbortMultipartUpload"], silver.objects(&keep)),
        allow("TidySilver", &["s3:DeleteObject"], silver.objects(&delete)),
    ];
    let through_s3 = |place: &Place| json!({"StringEquals": {"kms:ViaService": sub(format!("s3.{}.${{AWS::URLSuffix}}", place.region()))}});
    if let Some(key) = &bronze.kms_key {
        statements.push(allow_if("DecryptBronze", &["kms:Decrypt"], json!(key), through_s3(bronze)));
    }
    if let Some(key) = &silver.kms_key {
        // A multipart upload also decrypts.
        statements.push(allow_if("EncryptSilver", &["kms:Decrypt", "kms:GenerateDataKey"], json!(key), through_s3(silver)));
    }
    role("ecs-tasks.amazonaws.com", of_this_account(), statements)
}
