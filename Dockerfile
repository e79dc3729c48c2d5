# The runtime alone, on the CPU:
#   docker build -t segpipe . && docker run -v "$PWD:/work" -w /work segpipe predict runs/demo photos/ -o out/
FROM python:3.12-slim
COPY . /src
RUN pip install --no-cache-dir -c /src/constraints.txt "/src[cpu]" && rm -rf /src
ENTRYPOINT ["segpipe"]
