// Reads Kubernetes objects from standard input, checks the custom ones against their operators' schemas, and prints
// one line for each: its kind, its name, and what is wrong with it, if anything is.
import { readFileSync } from "node:fs";
import { parseAllDocuments } from "yaml";
import { ScaledObject } from "@kubernetes-models/keda/keda.sh/v1alpha1";
import { PrometheusRule, ServiceMonitor } from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1";

const kinds = { PrometheusRule, ScaledObject, ServiceMonitor };

for (const document of parseAllDocuments(readFileSync(0, "utf8"))) {
  const object = document.toJS();
  const Kind = kinds[object?.kind];
  if (!Kind) continue;
  let fault = "";
  try {
    new Kind(object).validate();
  } catch (error) {
    fault = `: ${error.message}`;
  }
  console.log(`${object.kind} ${object.metadata.name}${fault}`);
}
