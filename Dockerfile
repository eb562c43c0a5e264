# The image of the container and Kubernetes runs: docker build -t ssm-seq:0.1.0 .
FROM python:3.11-slim
WORKDIR /opt/ssm_seq
COPY requirements.lock pyproject.toml README.md LICENSE ./
RUN pip install --no-cache-dir -r requirements.lock
COPY kernels kernels
COPY ssm_seq ssm_seq
COPY config config
RUN pip install --no-cache-dir --no-deps .
