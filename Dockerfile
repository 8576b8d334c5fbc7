# The web app in a container:
#
#     docker build -t unioncam .
#     docker run --rm -p 127.0.0.1:8501:8501 unioncam
#
# Then open http://localhost:8501. Words after the image's name are those of `unioncam app`.
FROM python:3.12-slim

RUN useradd --create-home user
WORKDIR /home/user

# pip takes a further index from here: of builds of torch for the CPU alone, which are far smaller.
ARG PIP_EXTRA_INDEX_URL
COPY pyproject.toml README.md LICENSE source/
COPY captum_unioncam source/captum_unioncam
RUN pip install --no-cache-dir "./source[app]" && rm -r source

USER user
EXPOSE 8501
# Inside a container localhost is the container alone; who may come is decided where the port is published.
ENTRYPOINT ["unioncam", "app", "--address", "0.0.0.0", "--headless"]
