{{- define "flexworker.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* What selects the pods of this release. The selector of a Deployment cannot be changed. */}}
{{- define "flexworker.selector" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "flexworker.workers" -}}
{{ include "flexworker.selector" . }}
app.kubernetes.io/component: worker
{{- end -}}

{{- define "flexworker.migration" -}}
{{ include "flexworker.selector" . }}
app.kubernetes.io/component: migration
{{- end -}}

{{- define "flexworker.labels" -}}
app.kubernetes.io/version: {{ .Values.image.tag | default .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "flexworker.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{- define "flexworker.port" -}}
{{ trimPrefix ":" .Values.settings.ADMIN_ADDR }}
{{- end -}}

{{/* The seconds of a duration in hours, minutes and seconds, as the schema has SHUTDOWN_GRACE. */}}
{{- define "flexworker.seconds" -}}
{{- $seconds := 0 -}}
{{- range $unit, $factor := dict "h" 3600 "m" 60 "s" 1 -}}
{{- $part := regexFind (printf "[0-9]+%s" $unit) $ | trimSuffix $unit -}}
{{- $seconds = add $seconds (mul (default "0" $part | atoi) $factor) -}}
{{- end -}}
{{ $seconds }}
{{- end -}}

{{/* Where the secret of a variable that names a file is mounted: TWILIO_AUTH_TOKEN_FILE is twilio_auth_token. */}}
{{- define "flexworker.file" -}}
{{ trimSuffix "_FILE" . | lower }}
{{- end -}}

{{/* A secret as a source of the projected volume. */}}
{{- define "flexworker.source" -}}
{{- $from := last . -}}
- secret:
    name: {{ $from.secret }}
    items: [{key: {{ $from.key | quote }}, path: {{ include "flexworker.file" (first .) }}}]
{{- end -}}

{{/* A value as the text of a variable. Numbers are float64 here, which would be written with an exponent when they are large. */}}
{{- define "flexworker.text" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) -}}{{ int64 . }}{{- else -}}{{ . }}{{- end -}}
{{- end -}}

{{- define "flexworker.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532 # reads the secrets
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "flexworker.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{- define "flexworker.dns" -}}
- ports: [{port: 53, protocol: UDP}, {port: 53, protocol: TCP}]
{{- end -}}
